// Package dev runs a cluster on one machine: one child process a node, all on
// loopback, with one object store.
package dev
