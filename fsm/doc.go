// Package fsm is the state that the whole cluster agrees on: nodes, shards and
// their wished replicas, topics, partitions, and the manifest of what is in the
// object store.
//
// It is pure. State.Apply takes a command and gives a result; there is no clock,
// no randomness and no I/O, and every time or id comes with the command. So all
// replicas of the metadata group that apply the same log have the same state.
//
// A command that must not be done is rejected: the Result says why, and nothing
// has changed. A command that this binary does not know is an error, upon which
// the node has to stop, since skipping it would make this replica differ.
//
// Every command may come twice, since a proposer that has lost the answer asks
// again. The second one then changes nothing and succeeds.
//
// View is an immutable state. It is built on persistent maps, so that keeping one,
// for a reader or for a snapshot, costs nothing and blocks nobody.
package fsm
