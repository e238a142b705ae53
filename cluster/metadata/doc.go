// Package metadata runs this node's replica of the metadata group: the one Raft
// group whose state is what the whole cluster agrees on.
//
// Every node has a replica, voter or not, and with it a View of the state. A
// command is proposed on any node and forwarded to the leader. A View may be
// behind; after Barrier it has all that was committed before the call.
//
// The state itself is the package fsm. This package adapts it to Raft and adds
// what needs time, goroutines and other nodes.
package metadata
