// Package integration proves, with real servers and a real S3 server, what
// StreamHouse promises. Its tests read like the promises; how they start, break
// and check a cluster is in package harness.
package integration
