// Package scrub reads what a node stores, at a bounded rate, before somebody needs it: the logs and snapshots of its
// replicas, and the objects of the shards that it leads. A damaged replica is handed to Repair, which rebuilds it from the
// others. A damaged object is told in the log and in a metric; what is in it is on no other place any more.
package scrub
