// Package gossip knows who is alive and where it listens.
//
// It wraps hashicorp/memberlist. Every node spreads its id, incarnation,
// cluster and addresses; members of another cluster are refused. What gossip
// says is a hint: Raft decides. A node that was cut off for long is found
// again by a loop that keeps asking the seeds and the nodes that the metadata
// knows.
package gossip
