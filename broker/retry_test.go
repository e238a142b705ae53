package broker

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

var update = flag.Bool("update", false, "write the outputs of the transcripts anew")

// TestRetryTranscripts runs testdata/retry.txt: what the attempts of a call end with, and what becomes of it.
func TestRetryTranscripts(t *testing.T) {
	const file = "testdata/retry.txt"
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var out []string
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		in, _, ok := strings.Cut(block+"\n", "\n----\n")
		require.True(t, ok, block)
		var got string
		synctest.Test(t, func(t *testing.T) { got = runTranscript(t, in) })
		out = append(out, in+"\n----\n"+got)
	}
	got := strings.Join(out, "\n\n") + "\n"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	require.Equal(t, string(text), got)
}

// runTranscript plays one call. The last answer repeats until the caller's deadline, a second later.
func runTranscript(t *testing.T, in string) string {
	t.Helper()
	var call leaderCall
	var answers []string
	for line := range strings.SplitSeq(in, "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "write with a producer id", line == "read":
			call.repeatable = true
		case line == "write":
		default:
			answers = append(answers, line)
		}
	}
	f := newFixture(t, true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var out strings.Builder
	attempts := 0
	err := f.onLeader(ctx, call, func(_ context.Context, to target) error {
		answer := answers[min(attempts, len(answers)-1)]
		attempts++
		if attempts <= len(answers) {
			fmt.Fprintf(&out, "%s: %s\n", to.nodeID, answer)
		}
		if answer == "ok" {
			return nil
		}
		reason, leader, _ := strings.Cut(answer, " ")
		n, ok := streamhousev1.ErrorReason_value["ERROR_REASON_"+reason]
		require.True(t, ok, reason)
		return &Error{Reason: Reason(n), Message: reason, Metadata: map[string]string{"leader": leader}}
	})
	if attempts > len(answers) {
		out.WriteString("... until the deadline\n")
	}
	if err == nil {
		out.WriteString("=> ok")
	} else {
		out.WriteString("=> " + strings.TrimPrefix(AsError(err).Reason.String(), "ERROR_REASON_"))
	}
	return out.String()
}

// TestCallGoesOnWithANewLeader lets a shard be without a leader for a while: a call that waits goes on as soon as this
// node's replica knows the next one.
func TestCallGoesOnWithANewLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		s := f.shards[1]
		leader := s.leader
		for _, away := range []time.Duration{60 * time.Millisecond, 170 * time.Millisecond, 333 * time.Millisecond} {
			s.set(func() { s.leader = "" })
			time.AfterFunc(away, func() { s.set(func() { s.leader = leader }) })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			require.NoError(t, f.onLeader(ctx, leaderCall{shard: 1}, func(context.Context, target) error { return nil }))
			require.LessOrEqual(t, time.Since(began), away+leaderTick)
			cancel()
		}
	})
}

func TestOnLeaderEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		err := f.onLeader(ctx, leaderCall{}, func(context.Context, target) error { return noLeader(0) })
		requireReason(t, reasonCanceled, err)
	})
}

func TestFindLeaderWithoutReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, false)
		to, err := f.findLeader(t.Context(), 1, "")
		require.NoError(t, err)
		require.Equal(t, "n2", to.nodeID)
		_, err = f.findLeader(t.Context(), 1, "")
		require.NoError(t, err)
		require.Equal(t, 1, f.peers["n2"].count("GetReplica"), "the leader is remembered")

		f.leaders.learn(1, noLeader(1))
		f.shards[1].set(func() { f.shards[1].leader = "" })
		_, err = f.findLeader(t.Context(), 1, "")
		requireReason(t, reasonNoLeader, err)
		_, err = f.findLeader(t.Context(), 1, "")
		requireReason(t, reasonNoLeader, err)
		require.Equal(t, 2, f.peers["n2"].count("GetReplica"), "a fruitless search is not repeated at once")

		f.shards[1].set(func() { f.shards[1].leader = "n3/r" })
		require.NoError(t, pause.For(t.Context(), noLeaderFor))
		to, err = f.findLeader(t.Context(), 1, "")
		require.NoError(t, err)
		require.Equal(t, "n3", to.nodeID)
	})
}

func TestAsError(t *testing.T) {
	corruptObject := &segment.CorruptError{Object: "c1/00/1/x.seg"}
	tests := []struct {
		name string
		err  error
		want Reason
	}{
		{"ours", fmt.Errorf("x: %w", topicNotFound("t")), reasonTopicNotFound},
		{"rejection", &fsm.Rejection{Reason: reasonTopicExists}, reasonTopicExists},
		{"not leader", fmt.Errorf("x: %w", &shard.NotLeaderError{}), reasonNotLeader},
		{"unknown before not leader", errors.Join(shard.ErrUnknownOutcome, &shard.NotLeaderError{}), reasonOutcomeUnknown},
		{"unknown before deadline", errors.Join(shard.ErrUnknownOutcome, context.DeadlineExceeded), reasonOutcomeUnknown},
		{"not ready", shard.ErrNotReady, reasonReplicaNotReady},
		{"log full", fmt.Errorf("%w: 1 of 2", shard.ErrLogFull), reasonLogFull},
		{"disk full", shard.ErrDiskFull, reasonDiskFull},
		{"too many offsets", shard.ErrTooManyOffsets, reasonCoordinatorFull},
		{"bad field", fmt.Errorf("x: %w", &shard.FieldError{Field: "f"}), reasonInvalidField},
		{"feature level", fmt.Errorf("%w: x", shard.ErrFeatureLevel), reasonFeatureLevel},
		{"too many groups", shard.ErrTooManyGroups, reasonCoordinatorFull},
		{"too many members", shard.ErrTooManyMembers, reasonCoordinatorFull},
		{"too many topics", shard.ErrTooManyTopics, reasonCoordinatorFull},
		{"closed", shard.ErrClosed, reasonShuttingDown},
		{"unknown member", group.ErrUnknownMember, reasonUnknownMember},
		{"fenced member", group.ErrFencedEpoch, reasonFencedMember},
		{"instance in use", group.ErrInstanceInUse, reasonInstanceInUse},
		{"not owned", group.ErrNotOwned, reasonNotOwned},
		{"stale commit", group.ErrStaleCommit, reasonStaleCommit},
		{"group full", group.ErrFull, reasonGroupFull},
		{"group not empty", group.ErrNotEmpty, reasonGroupNotEmpty},
		{"no group", shard.ErrNoGroup, reasonGroupNotFound},
		{"dropped", shard.ErrDropped, reasonPartitionNotFound},
		{"metadata unknown", fmt.Errorf("%w: %w", metadata.ErrOutcomeUnknown, context.DeadlineExceeded), reasonOutcomeUnknown},
		{"metadata without leader", fmt.Errorf("%w: %w", metadata.ErrNoLeader, context.DeadlineExceeded), reasonNoLeader},
		{"metadata not leader", metadata.ErrNotLeader, reasonNotLeader},
		{"metadata closed", metadata.ErrClosed, reasonShuttingDown},
		{"group not led", fmt.Errorf("x: %w", replica.ErrNotLeader), reasonNotLeader},
		{"group without the voter", replica.ErrNoServer, reasonReplicaNotReady},
		{"group changed", replica.ErrStale, reasonReplicaNotReady},
		{"corrupt log", &logstore.CorruptError{File: "f"}, reasonCorruptData},
		{"bad command", metadata.ErrBadCommand, reasonInvalidField},
		{"corrupt object", fmt.Errorf("x: %w", corruptObject), reasonCorruptData},
		{"missing object", object.ErrNotFound, reasonCorruptData},
		{"store away", object.ErrUnavailable, reasonStoreUnavailable},
		{"store denies", object.ErrDenied, reasonStoreUnavailable},
		{"corrupt batch", record.ErrCorrupt, reasonCorruptBatch},
		{"short batch", record.ErrTruncated, reasonCorruptBatch},
		{"large record", record.ErrTooLarge, reasonRecordTooLarge},
		{"deadline", context.DeadlineExceeded, reasonDeadline},
		{"canceled", context.Canceled, reasonCanceled},
		{"anything else", errUnreachable, reasonInternal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := AsError(tt.err)
			require.Equal(t, tt.want.String(), e.Reason.String())
			require.NotEmpty(t, e.Error()+e.Reason.String())
		})
	}
	require.Nil(t, AsError(nil))
	require.Equal(t, corruptObject.Object, AsError(corruptObject).Metadata["object"])
}
