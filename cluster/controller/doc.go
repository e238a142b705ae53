// Package controller is the one reconciler of the cluster. It runs on every node
// and acts on the one that leads the metadata group.
//
// It creates the shards, keeps the metadata group at 1, 3 or 5 voters and each
// shard at three replicas where there are nodes for them, replaces what is lost or
// away for too long, empties nodes that are drained, spreads replicas and
// leaderships, and applies retention. Its janitor removes objects that nothing
// refers to any more.
//
// Metadata holds the wish, a group's Raft configuration the truth. The wish
// changes first; the truth follows by one server at a time, on the index of the
// configuration that was looked at: non-voter, caught up, voter. A group whose
// leader does not answer is left alone.
//
// What to do is decided by Plan, which is pure. Controller looks, plans and acts,
// again and again; it remembers nothing that must not be lost.
package controller
