package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBench(t *testing.T) {
	s := newShell(t)
	r := s.run("", "bench", "produce", "load", "--records", "500", "--record-size", "100", "--partitions", "2")
	require.Equal(t, exitDone, r.code, r.stderr)
	require.Equal(t, "topic load was missing and is created, with 2 partitions\n", r.stderr)
	require.Regexp(t, `^TEST +RECORDS +SIZE +SECONDS +RECORDS/S +MB/S +P50 +P95 +P99 +MAX\nproduce +500 +48\.8 KiB +[0-9.]+ +\d+ +[0-9.]+( +[0-9.]+[µm]?s){4}\n$`, r.stdout)

	r = s.run("", "bench", "consume", "load", "-o", "json", "--clients", "2")
	require.Equal(t, exitDone, r.code, r.stderr)
	require.Empty(t, r.stderr)
	var j benchJSON
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &j))
	require.Equal(t, "load", j.Topic)
	require.Equal(t, 2, j.Partitions)
	require.Len(t, j.Tests, 1)
	require.Equal(t, "consume", j.Tests[0].Test)
	require.EqualValues(t, 500, j.Tests[0].Records)
	require.EqualValues(t, 50_000, j.Tests[0].Bytes)
	require.Positive(t, j.Tests[0].LatencyMs.Max)

	r = s.run("", "bench", "e2e", "load", "--duration", "200ms", "--rate", "500", "-o", "json", "--linger", "0s")
	require.Equal(t, exitDone, r.code, r.stderr)
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &j))
	require.Len(t, j.Tests, 2)
	require.Equal(t, "e2e", j.Tests[1].Test)
	require.Equal(t, j.Tests[0].Records, j.Tests[1].Records)
	require.Regexp(t, `^\d+\n\d+\n$`, s.ok("", "bench", "e2e", "load", "--records", "5", "-o", "value"))
}

func TestBenchErrors(t *testing.T) {
	s := newShell(t)
	for line, want := range map[string]string{
		"bench consume none":                      `topic "none" does not exist (TOPIC_NOT_FOUND)`,
		"bench produce t --records 0":             "usage: --records 0: must be 1 or more",
		"bench produce t --duration 0s":           "usage: --duration 0s: must be above 0",
		"bench produce t --clients 0":             "usage: --clients 0: must be 1 to 1000",
		"bench produce t --rate -1":               "usage: --rate -1: must be 0 or more",
		"bench produce t --record-size -1":        "usage: --record-size -1: must be 0 or more",
		"bench produce t --compression gzip":      `usage: --compression: "gzip" must be none, snappy, lz4 or zstd`,
		"bench produce t --acks all":              `usage: --acks: "all" must be quorum or durable`,
		"bench produce t --batch-bytes 900000000": "usage: --batch-bytes: 900000000 is not from 1 to 8388608",
		"bench consume t --fetch-bytes 1":         "usage: --fetch-bytes 1: must be 1024 to 16777216",
		"bench e2e t --record-size 8":             "usage: --record-size 8: must be 16 or more",
		"bench produce t --timeout -1s":           "usage: --timeout: -1s is below 0",
	} {
		require.Equal(t, refusal(line, want), s.run("", strings.Fields(line)...), line)
	}
}
