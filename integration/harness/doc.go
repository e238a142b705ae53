// Package harness runs real StreamHouse servers against a real S3 server on
// loopback, breaks them on purpose, and checks that they kept what they
// acknowledged.
//
// A [Cluster] has nodes, each a process of its own with its own ports, data
// directory and log file. Between the nodes and the S3 server stands a [Proxy]
// that counts requests and makes them fail. A [Producer] writes under a producer
// id, retries across nodes and remembers what was acknowledged; a [Ledger] holds
// that against what every node serves.
//
// Nothing here waits by sleeping: conditions are polled with a deadline.
package harness
