package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

func TestTopicCommands(t *testing.T) {
	s := newShell(t)
	require.Equal(t, "NAME  PARTITIONS  CREATED                   CONFIG\nb     1           2026-01-01T00:00:00.000Z  -\n", s.ok("", "topic", "create", "b"))
	require.Equal(t, "a\n", s.ok("", "topic", "create", "a", "--partitions", "3", "--config", "retention.ms=1000", "--config", "retention.bytes=5", "-o", "value"))
	require.Equal(t, "a\nb\n", s.ok("", "topic", "list", "-o", "value"))
	golden(t, "topic-list.txt", s.ok("", "topic", "list"))
	golden(t, "topic-list.json", s.ok("", "topic", "list", "-o", "json"))
	golden(t, "topic-describe.txt", s.ok("", "topic", "describe", "a"))
	golden(t, "topic-describe.json", s.ok("", "topic", "describe", "a", "-o", "json"))

	out := s.ok("", "topic", "alter", "a", "--config", "retention.ms=7", "--unset-config", "retention.bytes", "--partitions", "4")
	require.Contains(t, out, "a     4           2026-01-01T00:00:00.000Z  retention.ms=7\n")
	require.Equal(t, "DELETED\na\n", s.ok("", "topic", "delete", "a"))
	require.Equal(t, "[]\n", func() string { s.ok("", "topic", "delete", "b"); return s.ok("", "topic", "list", "-o", "json") }())
}

func TestTopicErrors(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "a")
	for line, want := range map[string]string{
		"topic create a":              `topic "a" exists (TOPIC_EXISTS)`,
		"topic create b --config x":   `usage: --config "x": must be KEY=VALUE`,
		"topic create b --partitions": "", // below
		"topic describe b":            `topic "b" does not exist (TOPIC_NOT_FOUND)`,
		"topic delete b":              `topic "b" does not exist (TOPIC_NOT_FOUND)`,
		"topic alter a":               "usage: nothing to change: give --config, --unset-config or --partitions",
	} {
		if want == "" {
			line, want = line+" 0", "partitions must be 1 to 100000 (INVALID_FIELD)"
		}
		require.Equal(t, refusal(line, want), s.run("", strings.Fields(line)...), line)
	}
}

func TestDescribeWithoutWatermarks(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "a")
	s.node.Before = func(method string) error {
		if method == "ListEnds" {
			return clienttest.Error(codes.DataLoss, streamhousev1.ErrorReason_ERROR_REASON_CORRUPT_DATA, "a checksum is wrong", nil)
		}
		return nil
	}
	r := s.run("", "topic", "describe", "a")
	require.Equal(t, exitDone, r.code)
	require.Equal(t, "high watermarks are not known: a checksum is wrong (CORRUPT_DATA)\n", r.stderr)
}

func TestClusterCommands(t *testing.T) {
	s := newShell(t)
	golden(t, "cluster-status.txt", s.ok("", "cluster", "status"))
	golden(t, "cluster-status.json", s.ok("", "cluster", "status", "-o", "json"))
	require.Equal(t, "n1\nn2\n", s.ok("", "cluster", "status", "-o", "value"))

	require.Equal(t, result{exitDone, "", "drain of n2 has begun; see streamhouse cluster status\n"}, s.run("", "cluster", "drain", "n2"))
	require.Equal(t, result{exitDone, "", "undrain: n2\n"}, s.run("", "cluster", "undrain", "n2"))
	require.Equal(t, result{exitDone, "", "drain of n2 is done\n"}, s.run("", "cluster", "drain", "n2", "--wait"))
	require.Equal(t, result{exitDone, "", "decommission of n2 is done\n"}, s.run("", "cluster", "decommission", "n2", "--wait"))
	require.Equal(t, result{exitDone, "", "shard 0 is led by n1\n"}, s.run("", "cluster", "transfer-leader", "0", "n1"))

	r := s.run("", "cluster", "drain", "n1", "--wait", "--timeout", "50ms")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, "drain of n1 goes on, but was not done in time: 1 replicas are still on the node")
	for line, want := range map[string]string{
		"cluster drain n9":                 `node "n9" does not exist (NODE_NOT_FOUND)`,
		"cluster transfer-leader 7 n1":     "there is no shard 7 (SHARD_NOT_FOUND)",
		"cluster transfer-leader -- -1 n1": `usage: SHARD "-1": must be a number`,
	} {
		require.Equal(t, refusal(line, want), s.run("", strings.Fields(line)...), line)
	}
}
