// Package remote connects the commands to a cluster: a Pool of addresses with
// fail-over between them, and errors as people want to read them.
package remote
