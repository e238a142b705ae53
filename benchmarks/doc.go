// Package benchmarks measures real clusters of three server processes, with bare
// hashicorp/raft on raft-wal beside them in the same run where a bound is a ratio.
//
//	make bench        all of them; prints a table of medians and bounds
//	make bench-smoke  each once and tiny, so that they can't rot
//
// Every benchmark does its work once for each iteration of b.Loop; run them with
// -benchtime 1x. With -short they are tiny, and their numbers mean nothing.
package benchmarks
