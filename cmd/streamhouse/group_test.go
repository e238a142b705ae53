package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

// background runs a command line until stop is called, which returns its end.
func (s *shell) background(args ...string) (out *lockedBuffer, stop func() result) {
	ctx, cancel := context.WithCancel(s.t.Context())
	out = new(lockedBuffer)
	var errs lockedBuffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, args, strings.NewReader(""), out, &errs) }()
	return out, func() result {
		cancel()
		code := <-done
		return result{code, out.String(), errs.String()}
	}
}

func (s *shell) eventually(what string, fn func() bool) {
	s.t.Helper()
	require.Eventually(s.t, fn, 10*time.Second, 5*time.Millisecond, what)
}

// Copies of a command share the partitions; who is left gets those of who has gone, and nothing comes twice.
func TestConsumeMembersShare(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "4")
	for p := range 4 {
		s.ok(fmt.Sprintf("a%d\n", p), "produce", "t", "--partition", fmt.Sprint(p))
	}
	first, stopFirst := s.background("consume", "t", "--group", "g", "--follow")
	s.eventually("all is read", func() bool { return strings.Count(first.String(), "\n") == 4 })
	second, stopSecond := s.background("consume", "t", "--group", "g", "--follow")
	s.eventually("both are members", func() bool { return len(s.cluster.Members("g")) == 2 })
	s.eventually("both read", func() bool {
		for p := range 4 {
			s.ok("b\n", "produce", "t", "--partition", fmt.Sprint(p))
		}
		return strings.Contains(first.String(), "b\n") && strings.Contains(second.String(), "b\n")
	})
	r := stopFirst()
	require.Equal(t, exitDone, r.code, r.stderr)
	s.ok("c\n", "produce", "t", "--partition", "0")
	s.ok("c\n", "produce", "t", "--partition", "1")
	s.eventually("the second has all", func() bool { return strings.Count(second.String(), "c\n") == 2 })
	r = stopSecond()
	require.Equal(t, exitDone, r.code, r.stderr)
	require.Empty(t, s.cluster.Members("g"))
	total := 0
	for p := range 4 {
		n := len(s.cluster.Values("t", p))
		require.EqualValues(t, n, s.cluster.Offset("g", "t", p))
		total += n
	}
	require.Equal(t, total, strings.Count(first.String()+second.String(), "\n"), "each once")
}

// Without --follow a member ends at the ends that the topic had.
func TestConsumeMemberReadsToTheEnd(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "3")
	require.Empty(t, s.ok("", "consume", "t", "--group", "g"), "empty partitions are at their ends")
	s.ok("a\nb\nc\n", "produce", "t", "--partition", "1")
	require.Equal(t, "a\nb\nc\n", s.ok("", "consume", "t", "--group", "g"))
	require.Equal(t, "c\n", s.ok("", "consume", "t", "--group", "g", "--from", "2026-01-01T00:00:00Z", "--partition", "1", "--max", "3")[4:])
	require.Equal(t, "a\nb\nc\n", s.ok("", "consume", "t", "--group", "g", "--from", "beginning"), "--from is stronger")
	require.Empty(t, s.ok("", "consume", "t", "--group", "g", "--from", "end"))
	require.Empty(t, s.cluster.Members("g"))
	require.EqualValues(t, 3, s.cluster.Offset("g", "t", 1))
}

func TestConsumeMemberWithoutAShare(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\n", "produce", "t")
	out, stop := s.background("consume", "t", "--group", "g", "--follow")
	s.eventually("it reads", func() bool { return out.String() == "a\n" })
	r := s.run("", "consume", "t", "--group", "g", "--timeout", "3s")
	if r.code == exitDone {
		require.Empty(t, r.stdout, "members are ordered by chance: it took the partition over")
	} else {
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.stderr, "its other members own all 1 partitions of t; stop some, or stand by with --follow")
	}
	require.Equal(t, exitDone, stop().code)
}

// Who loses its membership joins again and goes on behind what is committed.
func TestConsumeMemberIsExpired(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	out, stop := s.background("consume", "t", "--group", "g", "--follow")
	for _, line := range []string{"a\n", "b\n", "c\n"} {
		s.ok(line, "produce", "t")
		s.eventually("it reads", func() bool { return strings.HasSuffix(out.String(), line) })
		s.cluster.Expire("g")
	}
	r := stop()
	require.Contains(t, r.stderr, "membership is lost: no such member (UNKNOWN_MEMBER)")
}

// fullDisk is a stdout in a file that can't grow.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}
}

// leaving is a stdout whose reader goes away after some bytes.
type leaving struct{ room atomic.Int64 }

func (l *leaving) Write(p []byte) (int, error) {
	if l.room.Add(-int64(len(p))) < 0 {
		return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
	}
	return len(p), nil
}

// A reader that has enough, such as head, is no failure; only what it was given is committed.
func TestStdoutIsClosed(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\nb\n", "produce", "t")
	for _, args := range []string{"consume t", "consume t --group g", "consume t --group h --partition 0 --follow", "topic list", "topic list -o json", "--help", "version"} {
		var errs strings.Builder
		require.Equal(t, exitDone, run(t.Context(), strings.Fields(args), strings.NewReader(""), new(leaving), &errs), args)
		require.Empty(t, errs.String())
	}
	require.EqualValues(t, -1, s.cluster.Offset("g", "t", 0))
	require.EqualValues(t, -1, s.cluster.Offset("h", "t", 0))

	s.ok("c\nd\n", "produce", "t")
	some := new(leaving)
	some.room.Store(4)
	require.Equal(t, exitDone, run(t.Context(), []string{"consume", "t", "--group", "g"}, strings.NewReader(""), some, io.Discard))
	require.EqualValues(t, 2, s.cluster.Offset("g", "t", 0), "the first write was taken")
}

func TestStdoutFails(t *testing.T) {
	var errs strings.Builder
	require.Equal(t, exitFailed, run(t.Context(), []string{"version"}, strings.NewReader(""), fullDisk{}, &errs))
	require.Contains(t, errs.String(), "no space left on device")
}

func TestGroupCommands(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t", "--partitions", "2")
	s.ok("a\nb\nc\n", "produce", "t", "--partition", "1")
	s.ok("", "consume", "t", "--group", "g", "--max", "1")
	require.Equal(t, "g\n", s.ok("", "group", "list", "-o", "value"))
	require.Contains(t, s.ok("", "group", "list"), "g      empty  0        2\n")
	text := s.ok("", "group", "describe", "g")
	require.Contains(t, text, "Group g is empty in epoch ")
	require.Contains(t, text, "t      1          1          3    2    -\n")

	var g groupJSON
	require.NoError(t, json.Unmarshal([]byte(s.ok("", "group", "describe", "g", "-o", "json")), &g))
	require.EqualValues(t, 2, g.Lag)

	r := s.run("", "group", "reset", "g", "--topic", "t", "--to", "2")
	require.Equal(t, "nothing was changed: add --execute to do it\n", r.stderr)
	require.Contains(t, r.stdout, "t      0          -     0\nt      1          1     2\n")
	require.EqualValues(t, 1, s.cluster.Offset("g", "t", 1))
	r = s.run("", "group", "reset", "g", "--topic", "t", "--partition", "1", "--to", "2", "--execute")
	require.Contains(t, r.stdout, "t      1          1     2\n")
	require.NotContains(t, r.stdout, "t      0 ")
	require.EqualValues(t, 2, s.cluster.Offset("g", "t", 1))
	require.Equal(t, "streamhouse: topic t has no partition 2: it has 0 to 1\n",
		s.run("", "group", "reset", "g", "--topic", "t", "--partition", "2", "--to", "2", "--execute").stderr)
	s.ok("", "group", "reset", "g", "--topic", "t", "--to", "end", "--execute")
	require.EqualValues(t, 3, s.cluster.Offset("g", "t", 1))
	require.Equal(t, "DELETED\ng\n", s.ok("", "group", "delete", "g"))
	require.Equal(t, "[]\n", s.ok("", "group", "list", "-o", "json"))
	for line, want := range map[string]string{
		"group describe g":                  `group "g" does not exist (GROUP_NOT_FOUND)`,
		"group reset g --topic t":           "usage: --topic and --to are required",
		"group reset g --topic u --to end":  `topic "u" does not exist (TOPIC_NOT_FOUND)`,
		"group reset g --topic t --to then": `usage: --to "then": must be beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z`,
	} {
		require.Equal(t, refusal(line, want), s.run("", strings.Fields(line)...), line)
	}
}

// The members of a group alone commit.
func TestGroupWithMembers(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\n", "produce", "t")
	out, stop := s.background("consume", "t", "--group", "g", "--follow")
	s.eventually("it reads", func() bool { return out.String() == "a\n" })
	text := s.ok("", "group", "describe", "g")
	require.Contains(t, text, "streamhouse-cli")
	require.Contains(t, text, "t 0")
	for _, line := range []string{"group reset g --topic t --to end --execute", "group delete g", "consume t --group g --partition 0 --from beginning"} {
		r := s.run("", strings.Fields(line)...)
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.stderr, "the group has members (GROUP_NOT_EMPTY)")
	}
	require.Equal(t, exitDone, stop().code)
}

// Whatever fails in between, each record comes once and in order.
func TestThroughFaults(t *testing.T) {
	s := newShell(t)
	other := s.cluster.Start(t)
	t.Setenv("STREAMHOUSE_ADDR", s.node.Addr()+","+other.Addr())
	s.ok("", "topic", "create", "t", "--partitions", "2")
	for i, n := range []*clienttest.Node{s.node, other} {
		var calls, appends atomic.Int32
		n.Before = func(method string) error {
			if method != "write" && method != "Consume" {
				return nil
			}
			switch calls.Add(1) % 19 {
			case 1 + int32(i):
				return clienttest.Break()
			case 3 + int32(i):
				if method == "write" {
					return clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader")
				}
				return clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
			default:
				return nil
			}
		}
		n.Appended = func() error {
			if appends.Add(1)%3 == 0 {
				return clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "who knows")
			}
			return nil
		}
	}
	text := strings.Repeat("0123456789\n", 20_000)
	s.ok(text, "produce", "t", "--partition", "0")
	require.Equal(t, text, s.ok("", "consume", "t"))
	require.Equal(t, text, s.ok("", "consume", "t", "--group", "g"))
}

// Who follows a topic where nothing comes sees all the same that its reader has gone.
func TestReaderLeavesFollower(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	s.ok("a\n", "produce", "t")
	for _, args := range []string{"consume t --follow", "consume t --follow --group g"} {
		reader, writer, err := os.Pipe()
		require.NoError(t, err)
		done := make(chan int, 1)
		go func() { done <- run(t.Context(), strings.Fields(args), strings.NewReader(""), writer, io.Discard) }()
		line := make([]byte, 2)
		_, err = io.ReadFull(reader, line)
		require.NoError(t, err)
		require.NoError(t, reader.Close())
		require.Equal(t, exitDone, <-done)
		require.NoError(t, writer.Close())
	}
	require.EqualValues(t, 1, s.cluster.Offset("g", "t", 0))
	require.Empty(t, s.cluster.Members("g"))
}
