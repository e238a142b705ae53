// Package bench puts load on a topic through package client, and measures throughput and latency.
package bench
