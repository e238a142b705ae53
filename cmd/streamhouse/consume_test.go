package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

func TestConsumePositions(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\nb\nc\nd\ne\n", "produce", "t")
	for args, want := range map[string]string{
		"":                                "a b c d e",
		"--from beginning":                "a b c d e",
		"--from end":                      "",
		"--from 3":                        "d e",
		"--from 5":                        "",
		"--from 2026-01-01T00:00:00Z":     "a b c d e",
		"--from 2026-01-01T00:00:01Z":     "",
		"--max 2":                         "a b",
		"--from 1 --max 3":                "b c d",
		"--max 5 --follow":                "a b c d e",
		"--partition 0 --from 4 -o value": "e",
	} {
		got := s.ok("", append([]string{"consume", "t"}, strings.Fields(args)...)...)
		require.Equal(t, want, strings.Join(strings.Fields(got), " "), args)
	}
}

func TestConsumeSeveralPartitions(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "3")
	for p, text := range []string{"a\nb\n", "", "c\nd\ne\n"} {
		s.ok(text, "produce", "t", "--partition", string(rune('0'+p)))
	}
	require.Equal(t, "a\nb\nc\nd\ne\n", s.ok("", "consume", "t"), "one partition after the other")
	require.Equal(t, "a\nb\nc\n", s.ok("", "consume", "t", "--max", "3"))
	require.Equal(t, "c\nd\ne\n", s.ok("", "consume", "t", "--partition", "2"))
	require.Len(t, strings.Fields(s.ok("", "consume", "t", "--follow", "--max", "5")), 5)
}

func TestConsumeFormats(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	for _, r := range []client.Record{{Value: []byte("a<b")}, {Value: []byte("\xff\x01")}, {Value: []byte{}}, {Key: []byte("k"), Value: []byte("v")}} {
		s.write("t", r)
	}
	golden(t, "consume.json", s.ok("", "consume", "t", "-o", "json"))
	golden(t, "consume.txt", s.ok("", "consume", "t", "-o", "table"))
}

func TestConsumeGroup(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\nb\nc\nd\n", "produce", "t")
	require.Equal(t, "a\nb\n", s.ok("", "consume", "t", "--group", "g", "--max", "2"))
	require.EqualValues(t, 2, s.cluster.Offset("g", "t", 0))
	require.Equal(t, "c\nd\n", s.ok("", "consume", "t", "--group", "g"))
	require.EqualValues(t, 4, s.cluster.Offset("g", "t", 0))
	require.Empty(t, s.ok("", "consume", "t", "--group", "g"))
	require.Equal(t, "b\n", s.ok("", "consume", "t", "--group", "g", "--from", "1", "--max", "1"), "--from is stronger")

	s.cluster.Trim("t", 0, 3)
	r := s.run("", "consume", "t", "--group", "g")
	require.Equal(t, result{exitDone, "d\n", "partition 0: records 2 to 2 are gone, reading on at 3\n"}, r)
}

func TestConsumeErrors(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "2")
	for line, want := range map[string]string{
		"consume u":                                 `topic "u" does not exist (TOPIC_NOT_FOUND)`,
		"consume t --from yesterday":                `usage: --from "yesterday": must be beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z`,
		"consume t --from -1":                       `usage: --from "-1": must be beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z`,
		"consume t --from 1":                        "--from 1: topic t has 2 partitions, so give --partition, too",
		"consume t --partition 2":                   "topic t has no partition 2: it has 0 to 1",
		"consume t --from 9 --partition 1":          "--from 9: partition 1 ends at 0",
		"consume t --max 0":                         "usage: --max 0: must be 1 or more",
		"consume t --from 9 --partition 1 --follow": "offset 9 is out of range (OFFSET_OUT_OF_RANGE)",
	} {
		require.Equal(t, refusal(line, want), s.run("", strings.Fields(line)...), line)
	}
}

// Without a leader the end is not known; what a node has is written all the same.
func TestConsumeWithoutALeader(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\nb\n", "produce", "t")
	s.node.Before = func(method string) error {
		if method == "ListEnds" {
			return clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
		}
		return nil
	}
	r := s.run("", "consume", "t", "--timeout", "6s")
	require.Equal(t, result{exitDone, "a\nb\n", "the end is not known, reading what there is: no leader (NO_LEADER)\n"}, r)
}

// A survivor gives what it has, and then says that it knows no more.
func TestConsumeWhatASurvivorHas(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "3")
	s.ok("a\nb\n", "produce", "t", "--partition", "0")
	s.ok("c\n", "produce", "t", "--partition", "2")
	var reads atomic.Int32
	noLeader := clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
	s.node.Before = func(method string) error {
		if method == "ListEnds" || (method == "Consume" && reads.Add(1) > 1) {
			return noLeader
		}
		return nil
	}
	r := s.run("", "consume", "t", "--timeout", "6s")
	require.Equal(t, exitFailed, r.code)
	require.Equal(t, "a\nb\n", r.stdout)
	require.Contains(t, r.stderr, "the end is not known, reading what there is: no leader (NO_LEADER)\n")
	require.Contains(t, r.stderr, "streamhouse: 2 partitions, 1 the first: no leader (NO_LEADER)\n")
}

// A partition that can't be read does not keep the others from being read.
func TestConsumeGoesOnWithoutAPartition(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "3")
	s.ok("a\n", "produce", "t", "--partition", "0")
	s.ok("c\n", "produce", "t", "--partition", "2")
	var first atomic.Pointer[time.Time] // when a partition was read first
	s.node.Before = func(method string) error {
		now := time.Now()
		if method == "Consume" {
			first.CompareAndSwap(nil, &now)
		}
		if method == "ListEnds" || method == "Consume" && now.Sub(*first.Load()) < leastPatience+2*time.Second {
			return clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
		}
		return nil
	}
	r := s.run("", "consume", "t", "--timeout", "6s")
	require.Equal(t, exitFailed, r.code)
	require.Equal(t, "c\n", r.stdout)
	require.Regexp(t, `streamhouse: (partition 0|2 partitions, 0 the first): no leader \(NO_LEADER\)\n`, r.stderr)
}

func TestConsumeGivesUp(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\n", "produce", "t")
	noLeader := clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
	var lost atomic.Bool
	s.node.Before = func(method string) error {
		if method == "Consume" || (method == "ListEnds" && lost.Swap(true)) {
			return noLeader
		}
		return nil
	}
	for _, args := range []string{"consume t --timeout 2s", "consume t --timeout 2s --follow", "consume t --timeout 2s --group g"} {
		lost.Store(strings.Contains(args, "--follow"))
		r := s.run("", strings.Fields(args)...)
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.stderr, "no answer for 2s: no leader (NO_LEADER)\n", args)
	}
}

// lockedBuffer is written by one goroutine and looked at by another.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestConsumeFollowsUntilInterrupted(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "2")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs lockedBuffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"consume", "t", "--follow", "--group", "g"}, strings.NewReader(""), &out, &errs)
	}()
	want := ""
	for _, line := range []string{"a\n", "b\n"} {
		s.ok(line, "produce", "t", "--partition", "1")
		want += line
		require.Eventually(t, func() bool { return out.String() == want }, 10*time.Second, 5*time.Millisecond)
	}
	cancel()
	require.Equal(t, exitDone, <-done, errs.String())
	require.Empty(t, errs.String())
	require.EqualValues(t, 2, s.cluster.Offset("g", "t", 1), "committed at the end")
}
