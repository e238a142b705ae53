// Package simulation runs whole clusters on a virtual clock, each from a seed that chooses its workload and its faults,
// and holds what clients saw against what a log promises (package history).
//
//	make simulate SEEDS=100
//	make simulate SEED=17
//
// A run has three nodes in one bubble of testing/synctest (package cluster), over a network, disks and an object store in
// memory that fail on purpose. While the faults of the seed's Plan go on, producers with and without a producer id write,
// readers read through every node, a consumer group commits, and topics come and go. Then all faults are healed, and
// everything is read back through every node. Scripts (script_test.go) do the same with one fixed order of faults each.
// docs/adr/0015-simulation.md says what a seed fixes, and what it does not.
package simulation
