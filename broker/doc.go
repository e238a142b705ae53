// Package broker holds the use cases of the log: topics, produce, consume, group offsets and the state of the cluster.
//
// A Broker works on every node. It finds the leader of the shard that a call needs, does the work there in one hop, and
// tries again what is safe to try again until the caller's deadline. A node says yes from what it has, and no only after
// the leader was asked. Shards hosts the node's own replicas of shards.
package broker
