// Package benchmarks measures real clusters of three server processes, with bare
// hashicorp/raft on raft-wal beside them in the same run where a bound is a ratio.
//
//	make bench        all of them; prints a table of medians and bounds, and fails where one is missed
//	make bench-smoke  each once and tiny, so that they can't rot
//
// What the instrumentation costs is measured in three ways, each of which stands a machine that others use too:
//
//   - BenchmarkInstrumentation: nanoseconds of CPU and allocations of a batch on each way, from the benchmarks of the parts
//     beside the code; the best of 60 short runs. Each path of a batch ends in the same few counters, so this is what
//     they add.
//   - BenchmarkShare: the part of the instrumentation in CPU profiles of three nodes at work, of metrics and logs and of
//     tracing, without an endpoint and with 1 % of the requests sampled. With -v it lists the functions. Of the metrics
//     of hashicorp/raft it has what our sink does: the library calls go-metrics for every entry, whether anybody listens or not. A part
//     of 1 % of the 30 seconds of CPU that are sampled for each path is exact to a fifth of it.
//   - BenchmarkTracing: CPU time of a node that samples 1 % against one that does not, in pairs of short turns; the median,
//     and the interval that it is in.
//
// To run them alone, and the scrape:
//
//	cd benchmarks && go test -run '^$' -bench 'Instrumentation|Share|Tracing|Scrape' -benchtime 1x -v .
//
// Every benchmark does its work once for each iteration of b.Loop; run them with
// -benchtime 1x. With -short they are tiny, and their numbers mean nothing.
package benchmarks
