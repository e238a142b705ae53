// Package client writes to and reads from a StreamHouse cluster.
//
// A [Client] holds the connections to one cluster, and what is known of its topics. A [Producer], [Consumer] or [Admin] is
// made from it; any number may share one. Calls go directly to the leaders of partitions where those are known, and
// through any other node where they are not: every node takes every call.
//
//	c, err := client.New(client.Config{Addrs: []string{"127.0.0.1:50051"}})
//	...
//	defer c.Close()
//
// # Producing
//
// [Producer.Produce] hands a record over and returns; a [Promise] tells what became of it. [Producer.ProduceSync] waits.
// Records of one partition are batched, and sent in order, up to five batches at a time. What fails is tried again until
// [ProducerConfig].DeliveryTimeout, always under the same producer id and sequence: a record is stored once, however
// often it was sent. A record whose error is [ErrOutcomeUnknown] may have been written; one with another error was not.
//
// # Consuming
//
// [Consumer.Poll] returns records of the partitions that the consumer reads: those that it names, all of its topics, or as
// a member of a consumer group its share of them. A member tells its group in the background that it lives. Partitions
// are given up and taken only within Poll, after the callbacks for that, so that a program that works on records between
// two Polls never shares a partition with another member, unless it lost its membership: by a pause longer than
// [ConsumerConfig].SessionTimeout, or by not calling Poll for MaxPollInterval. Then everything that was read ahead is
// dropped before the next Poll returns, and commits are refused with [ErrNotOwned].
//
// Delivery is at least once: what was processed and not committed is read again after a failure. Where nothing fails,
// nothing comes twice.
//
// # Errors
//
// Errors are looked at with errors.Is and a [Reason] such as [ErrTopicNotFound], or taken apart as [Error] and
// [PartitionError]. What can be tried again has been, within the context's deadline or [Config].RequestTimeout.
//
// # Tests
//
// Package clienttest has a cluster in memory, with hooks that make it fail.
package client
