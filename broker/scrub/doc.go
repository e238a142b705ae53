// Package scrub reads what a node stores, at a bounded rate, before somebody needs it: the logs and snapshots of its
// replicas, and the objects of the shards that it leads. It compares the logs with those of the groups' other replicas too. A
// replica that is damaged, or that a majority contradicts, is handed to Repair, which rebuilds it from the others. A damaged
// object is told in the log and in a metric; what is in it is on no other place any more.
package scrub
