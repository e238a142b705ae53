# The tools that the Makefile installs into bin/: one place for each version.
# They are not in a go.mod: in one module their dependencies would raise each
# other's versions, and the linter is only supported as its authors built it.
GOLANGCI_LINT_VERSION      := v2.15.0
BUF_VERSION                := v1.75.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
VERSITYGW_VERSION          := v1.8.0
ALERTMANAGER_VERSION       := v0.31.1
# Where Debian's package can't be had.
PROMETHEUS_VERSION         := v0.316.0
