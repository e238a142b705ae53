// Package producer writes batches to a topic and keeps their order: each batch
// has a sequence under a producer id, up to five of a partition are in flight,
// and whatever fails is sent again, in order, through this node or another one.
// The servers store a batch once, however often it is sent.
package producer
