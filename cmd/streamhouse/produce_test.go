package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

func TestLinesComeBackByteForByte(t *testing.T) {
	var big strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&big, "line %d %s\n", i, strings.Repeat("x", i%200))
	}
	for name, text := range map[string]string{
		"plain":                "one\ntwo\n",
		"empty lines":          "\n\na\n\n",
		"CR and binary":        "a\r\n\x00\xff\n\tb \n",
		"nothing":              "",
		"longer than a buffer": strings.Repeat("y", 700_000) + "\nz\n",
		"many":                 big.String(),
	} {
		t.Run(name, func(t *testing.T) {
			s := newShell(t)
			s.ok("", "topic", "create", "t")
			file := filepath.Join(t.TempDir(), "input")
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			s.ok(text, "produce", "t")
			s.ok("", "produce", "t", "--file", file)
			require.Equal(t, text+text, s.ok("", "consume", "t"))
		})
	}
}

func TestProduceLastLineWithoutLF(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\nb", "produce", "t")
	require.Equal(t, "a\nb", s.ok("", "consume", "t"))
	s.ok("c\n", "produce", "t")
	require.Equal(t, "a\nb\nc\n", s.ok("", "consume", "t"), "it stays a line of its own")
}

func TestProduceSummary(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "2")
	r := s.run("a\nbb\n", "produce", "t", "--partition", "1")
	require.Equal(t, exitDone, r.code)
	require.Empty(t, r.stdout)
	require.Regexp(t, `^produced 2 records \(3 B\) to t in [0-9.]+ s: \d+ records/s, .*/s; partition 1: offsets 0 to 1\n$`, r.stderr)

	var sum produceResult
	require.NoError(t, json.Unmarshal([]byte(s.ok("c\n", "produce", "t", "--partition", "1", "-o", "json")), &sum))
	sum.Seconds = 0
	require.Equal(t, produceResult{Topic: "t", Records: 1, Bytes: 1, Partitions: []producePartitionResult{{Partition: 1, Records: 1, FirstOffset: 2, LastOffset: 2}}}, sum)
}

func TestProduceKeys(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "4")
	s.ok("k1:a\nk2:b:c\n:d\nk1:\n", "produce", "t", "--key-separator", ":")
	s.ok("e\n", "produce", "t", "--key", "")
	s.ok("f\n", "produce", "t", "--key", "k1")
	s.ok("g\n", "produce", "t")
	type kv struct {
		Key, Value *string
	}
	got, where := map[string]*string{}, map[string][]int32{}
	for line := range strings.Lines(s.ok("", "consume", "t", "-o", "json")) {
		var r struct {
			kv
			Partition int32
		}
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		got[*r.Value] = r.Key
		if r.Key != nil {
			where[*r.Key] = append(where[*r.Key], r.Partition)
		}
	}
	k := func(s string) *string { return &s }
	require.Equal(t, map[string]*string{"a": k("k1"), "b:c": k("k2"), "d": k(""), "": k("k1"), "e": k(""), "f": k("k1"), "g": nil}, got)
	for key, parts := range where {
		for _, p := range parts {
			require.Equal(t, parts[0], p, "records with key %q are in one partition", key)
		}
	}
}

func TestProduceSpreadsWithoutKeys(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "3")
	s.ok(strings.Repeat("x\n", 100_000), "produce", "t")
	for p := range 3 {
		require.NotEmpty(t, s.cluster.Values("t", p))
	}
}

func TestProduceErrors(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	for line, want := range map[string]string{
		"produce u":                      `topic "u" does not exist (TOPIC_NOT_FOUND)`,
		"produce t --acks some":          `usage: --acks "some": must be quorum or durable`,
		"produce t --file /no/such/file": "--file: open /no/such/file: no such file or directory",
		"produce t --file /tmp":          "--file: /tmp is a directory",
		"produce t --key-separator=":     "usage: --key-separator: must not be empty",
		"produce t --addr nowhere":       `usage: --addr: "nowhere" must be HOST:PORT`,
		"produce t --addr ,":             "usage: --addr: is empty: give HOST:PORT of one or more nodes",
		"produce t --addr a:1,b":         `usage: --addr: "b" must be HOST:PORT`,
		"produce t --timeout 0s":         "usage: --timeout 0s: must be above 0",
	} {
		require.Equal(t, refusal(line, want), s.run("", strings.Fields(line)...), line)
	}
	require.Equal(t, result{exitFailed, "", "streamhouse: topic t has no partition 7: it has 0 to 0\n"}, s.run("a\n", "produce", "t", "--partition", "7"))
}

func TestProduceWritesWhatCameBeforeABadLine(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	r := s.run("k:a\nk:b\nc\nk:d\n", "produce", "t", "--key-separator", ":")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, `streamhouse: line 3 has no separator ":"`)
	require.Contains(t, r.stderr, "produced 2 records")
	require.Equal(t, []string{"a", "b"}, s.cluster.Values("t", 0))
}

// Who types lines sees them written at once, not when a batch is full.
func TestProduceDoesNotWaitForAFullBatch(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	in, keyboard := io.Pipe()
	done := make(chan int, 1)
	go func() { done <- run(t.Context(), []string{"produce", "t"}, in, io.Discard, io.Discard) }()
	for i, line := range []string{"one", "two"} {
		_, err := keyboard.Write([]byte(line + "\n"))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(s.cluster.Values("t", 0)) == i+1 }, 10*time.Second, 5*time.Millisecond)
	}
	require.NoError(t, keyboard.Close())
	require.Equal(t, exitDone, <-done)
}

func TestProduceIsInterrupted(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.refuse(1, codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader")
	in, keyboard := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var errs lockedBuffer
	go func() { done <- run(ctx, []string{"produce", "t"}, in, io.Discard, &errs) }()
	_, err := keyboard.Write([]byte("one\n"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(s.cluster.Values("t", 0)) == 1 }, 10*time.Second, 5*time.Millisecond)
	_, err = keyboard.Write([]byte("two\nthree\n"))
	require.NoError(t, err)
	writes := func() int {
		return len(slices.DeleteFunc(s.cluster.Calls(), func(call string) bool { return call != "write" }))
	}
	require.Eventually(t, func() bool { return writes() > 1 }, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.Equal(t, exitInterrupted, <-done)
	require.NoError(t, keyboard.Close())
	require.Regexp(t, `(?s)^produced 1 records .*[12] records were not acknowledged.*interrupted\n$`, errs.String())
}

func TestProduceFailsOver(t *testing.T) {
	s := newShell(t)
	other := s.cluster.Start(t)
	s.ok("", "topic", "create", "t")
	var writes atomic.Int32
	s.node.Before = func(method string) error {
		if method == "write" && writes.Add(1) > 3 {
			return clienttest.Break()
		}
		return nil
	}
	text := strings.Repeat("0123456789\n", 60_000)
	s.ok(text, "produce", "t", "--addr", s.node.Addr()+","+other.Addr())
	require.Equal(t, text, s.ok("", "consume", "t", "--addr", other.Addr()))
}

// refuse makes a node answer every write behind the first ones with a failure.
func (s *shell) refuse(after int32, code codes.Code, reason streamhousev1.ErrorReason, message string) {
	var writes atomic.Int32
	s.node.Before = func(method string) error {
		if method == "write" && writes.Add(1) > after {
			return clienttest.StreamError(code, reason, message)
		}
		return nil
	}
}

func TestProduceIsRefused(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.refuse(0, codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_RECORD_TOO_LARGE, "9 bytes are too many")
	r := s.run("a\nb\nc\n", "produce", "t")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, "produced 0 records")
	require.Contains(t, r.stderr, "3 records were not acknowledged, and are not written\n")
	require.Contains(t, r.stderr, "streamhouse: lines 1 to 3: 9 bytes are too many (RECORD_TOO_LARGE)\n")
}

// Without a leader the time-out bounds everything, whatever was typed since.
func TestProduceGivesUp(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.refuse(0, codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader")
	in, keyboard := io.Pipe()
	go func() {
		for { // who types does not stop
			if _, err := keyboard.Write([]byte("one\n")); err != nil {
				return
			}
		}
	}()
	began := time.Now()
	var errs lockedBuffer
	require.Equal(t, exitFailed, run(t.Context(), []string{"produce", "t", "--timeout", "2s"}, in, io.Discard, &errs))
	require.NoError(t, in.Close())
	require.Less(t, time.Since(began), 20*time.Second)
	require.Contains(t, errs.String(), "delivery timed out after 2s")
	require.Contains(t, errs.String(), "no leader (NO_LEADER)")
}

// What was sent and not answered may have been written.
func TestProduceSaysWhatIsUncertain(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.node.Appended = func() error {
		return clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "who knows")
	}
	r := s.run("a\nb\n", "produce", "t", "--timeout", "2s")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, "2 records were not acknowledged: they may have been written or not\n")
	require.Contains(t, r.stderr, "streamhouse: lines 1 to 2: delivery timed out after 2s")
	require.Equal(t, []string{"a", "b"}, s.cluster.Values("t", 0), "once, however often it was tried")
}

func TestProduceGoesOnWhereItsStateHasExpired(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	in, keyboard := io.Pipe()
	done := make(chan int, 1)
	go func() { done <- run(t.Context(), []string{"produce", "t"}, in, io.Discard, io.Discard) }()
	for i, line := range []string{"one", "two"} {
		_, err := keyboard.Write([]byte(line + "\n"))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(s.cluster.Values("t", 0)) == i+1 }, 10*time.Second, 5*time.Millisecond)
		s.cluster.ForgetProducers()
	}
	require.NoError(t, keyboard.Close())
	require.Equal(t, exitDone, <-done)
}

func TestLineTooLong(t *testing.T) {
	_, err := newLineReader(io.LimitReader(zeros{}, maxLineBytes+2)).next()
	require.ErrorIs(t, err, errLineTooLong)
	require.ErrorContains(t, err, "line 1 is longer than ")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
