# CI calls these targets and nothing else.
SHELL         := bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-print-directory

include tools/versions.mk

GO   ?= go
# Tests without go vet, which the linters run.
TEST := $(GO) test -vet=off
BIN  := $(CURDIR)/bin
# Modules besides the root: what only tests need stays out of the product's go.mod.
SUBMODULES := simulation integration benchmarks grafana

FUZZTIME     ?= 10s
TEST_TIMEOUT ?= 15m
# Simulated clusters: one SEED, so many SEEDS from FIRST on, or as many as BUDGET of wall time holds.
SEED         ?= 0
SEEDS        ?= 0
FIRST        ?= 1
BUDGET       ?= 3m
# Integration tests at once: mostly they wait for timers of their servers.
PARALLEL     ?= 2
DEV_ARGS     ?=

# What watches a cluster, in tests and by make observe.
MONITORING := $(BIN)/prometheus $(BIN)/alertmanager $(BIN)/amtool

export PATH := $(BIN):$(PATH)

.PHONY: help build dev observe simulate test test-unit test-arch beside lint generate verify fuzz bench bench-smoke integration faults dashboards grafana-check mutants nightly clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## Build bin/streamhouse
	@$(GO) build -o $(BIN)/streamhouse ./cmd/streamhouse

dev: build ## Build, and run a cluster of three nodes on this machine until Ctrl-C
	@exec $(BIN)/streamhouse dev $(DEV_ARGS)

observe: build $(MONITORING) ## Build, and run such a cluster with Prometheus and Alertmanager until Ctrl-C
	@BIN=$(BIN) DEV_ARGS="$(DEV_ARGS)" exec tools/observe.sh

test: $(MONITORING) $(BIN)/versitygw test-unit test-arch ## Install what the tests need and run them all, with seeds of fuzz tests and each benchmark once
	@$(MAKE) -j2 integration beside

# The servers' tests mostly wait, and come first when they do not. Simulated clusters get five minutes of what is left, which
# holds about as many as three minutes alone.
beside:
	@nice -n 10 $(MAKE) dashboards grafana-check bench-smoke
	@BUDGET=5m nice -n 15 $(MAKE) simulate

test-unit:
	$(TEST) -race -timeout $(TEST_TIMEOUT) ./...
	cd simulation && $(TEST) -race -short -timeout $(TEST_TIMEOUT) ./...

# The test cache does not see what go list reads.
test-arch:
	$(TEST) -count=1 ./internal/archtest

simulate: ## Run clusters on a virtual clock with faults: SEEDS=n, SEED=n, or as many as BUDGET (3m) holds
	cd simulation && $(TEST) -count=1 -timeout 24h -run '^TestSimulation$$' -seed $(SEED) -seeds $(SEEDS) -first $(FIRST) -budget $(BUDGET)

lint: $(BIN)/golangci-lint $(BIN)/buf ## Run all linters
	$(BIN)/buf lint
	$(BIN)/golangci-lint run ./...
	@for m in $(SUBMODULES); do echo "golangci-lint run ./... (in $$m)"; (cd $$m && $(BIN)/golangci-lint run ./...); done

generate: $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc ## Generate the code of the protobufs, the tables in docs, the command line reference, and the dashboards
	$(BIN)/buf generate
	$(GO) test -count=1 ./internal/node -run TestDocumentation -update-docs
	$(GO) test -count=1 ./cmd/streamhouse -run 'TestDocumentation|TestHelp' -update
	cd grafana && $(GO) test -count=1 -run TestDashboardsAreGenerated -update .

verify: generate ## Fail where generated files or go.mod files are not up to date
	$(GO) mod tidy -diff
	@for m in $(SUBMODULES); do (cd $$m && $(GO) mod tidy -diff); done
	@git diff --exit-code -- api docs cmd/streamhouse/testdata grafana/dashboards || { echo "run make generate and commit"; exit 1; }

fuzz: ## Run every fuzz target for FUZZTIME (10s)
	@tools/fuzz.sh $(FUZZTIME)

bench: $(BIN)/versitygw ## Measure real clusters, beside bare Raft
	@cd benchmarks && $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m -v ./...

bench-smoke: $(BIN)/versitygw ## Run each benchmark once, so that it can't rot
	@dirs=$$(grep -rl --include='*_test.go' --exclude-dir=integration --exclude-dir=benchmarks '^func Benchmark' . | xargs -r -n1 dirname | sort -u); \
	if [ -n "$$dirs" ]; then set -x; $(TEST) -run '^$$' -bench . -benchtime 1x -short -timeout $(TEST_TIMEOUT) $$dirs; fi
	cd benchmarks && $(TEST) -bench . -benchtime 1x -short -timeout $(TEST_TIMEOUT) ./...

integration: $(MONITORING) $(BIN)/versitygw ## Test real servers with a real S3 server
	cd integration && tag=$$(../tools/faults.sh) && $(TEST) -race -tags "$$tag" -parallel $(PARALLEL) -timeout 40m ./...

faults: $(BIN)/versitygw ## Kill, pause, cut off and fill up real servers, cut their power and more, at length: what nightly does, and no other test
	cd integration && tag=$$(../tools/faults.sh) && names=$$(grep -ho '^func Test[A-Za-z0-9]*' fault_*_test.go nemesis_test.go | sed 's/^func //' | paste -sd '|' -) && \
	STREAMHOUSE_NIGHTLY=1 $(TEST) -v -tags "nightly $$tag" -count=1 -timeout 3h -run "^($$names)$$" .

dashboards: $(BIN)/versitygw $(BIN)/prometheus ## Run all that dashboards and rules ask for against real servers and a real Prometheus
	cd grafana && $(TEST) -race -timeout 10m ./...

grafana-check: ## Check the types of the dashboards against Grafana's own; without npm say that they were not
	@grafana/schema/check.sh

mutants: ## Remove each guard and plant each bug, one at a time, and check that a test notices
	$(GO) run ./tools/mutate

nightly: $(MONITORING) $(BIN)/versitygw ## Run what takes too long for each change: hours of faults, servers with the race detector, mutants, fuzzing, all benchmarks
	cd integration && tag=$$(../tools/faults.sh) && STREAMHOUSE_NIGHTLY=1 STREAMHOUSE_RACE=1 $(GO) test -tags "nightly $$tag" -race -count=1 -timeout 4h ./...
	$(MAKE) simulate SEEDS=10000
	$(MAKE) mutants
	$(MAKE) fuzz FUZZTIME=5m
	$(MAKE) bench

clean: ## Remove what was built; data stays
	rm -rf $(BIN)

# tool NAME PACKAGE VERSION: bin/NAME, built again when the version changes.
define tool
$(BIN)/$(1): $(BIN)/.$(1)-$(3)
$(BIN)/.$(1)-$(3):
	@mkdir -p $(BIN) && rm -f $(BIN)/.$(1)-*
	GOBIN=$(BIN) GOFLAGS= $(GO) install $(2)@$(3)
	@touch $$@
endef

# prometheus and promtool
$(BIN)/prometheus: tools/prometheus.sh
	tools/prometheus.sh $(BIN)
	@touch $@

$(BIN)/buf: $(BIN)/.buf-$(BUF_VERSION)
$(BIN)/.buf-$(BUF_VERSION): tools/buf.sh
	@rm -f $(BIN)/.buf-*
	tools/buf.sh $(BIN)
	@touch $@

# Debian's Alertmanager looks for its templates below /usr/share, so it is built.
$(eval $(call tool,alertmanager,github.com/prometheus/alertmanager/cmd/alertmanager,$(ALERTMANAGER_VERSION)))
$(eval $(call tool,amtool,github.com/prometheus/alertmanager/cmd/amtool,$(ALERTMANAGER_VERSION)))
$(eval $(call tool,golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(GOLANGCI_LINT_VERSION)))
$(eval $(call tool,protoc-gen-go,google.golang.org/protobuf/cmd/protoc-gen-go,$(PROTOC_GEN_GO_VERSION)))
$(eval $(call tool,protoc-gen-go-grpc,google.golang.org/grpc/cmd/protoc-gen-go-grpc,$(PROTOC_GEN_GO_GRPC_VERSION)))
$(eval $(call tool,versitygw,github.com/versity/versitygw/cmd/versitygw,$(VERSITYGW_VERSION)))
