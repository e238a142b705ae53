// Package cache keeps blocks of objects in memory: bounded bytes, one fetch in flight for a block however many wait,
// and read-ahead for sequential reads.
package cache
