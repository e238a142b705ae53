package scrub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/storage/object"
)

// rewrites stands for the shards: it has the manifest list an object under another name. With an error it does nothing, or the
// error comes late.
type rewrites struct {
	t     *testing.T
	m     fakeMetadata
	err   error
	late  bool
	calls int
}

func (r *rewrites) rewrite(_ context.Context, _ uint32, object string, listed []*metav1.SegmentEntry) (int, error) {
	r.calls++
	if r.err != nil && !r.late {
		return 0, r.err
	}
	res, err := r.m.state.Apply(r.m.View().Index()+1, &metav1.Command{Command: &metav1.Command_ReplaceSegments{
		ReplaceSegments: &metav1.ReplaceSegments{Object: object, Replacement: object + "2", ReplacementBytes: 1 << 20, Segments: listed},
	}})
	require.NoError(r.t, err)
	require.Nil(r.t, res.GetRejection())
	return len(listed), r.err
}

// TestDamagedObjectIsWrittenAnew: once it was found damaged twice, a minute apart, from a replica that is right; then it is told
// no more.
func TestDamagedObjectIsWrittenAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b, data := stored(t)
		require.NoError(t, b.Delete(t.Context(), objectName))
		replica := &fakeReplica{id: "n1/A", leads: true}
		s := newScrubber(t, m, b, nil, Local{Replica: replica})
		r := &rewrites{t: t, m: m}
		s.cfg.Rewrite = r.rewrite
		s.round(t.Context())
		require.Zero(t, r.calls, "a bucket that was away for a moment is no reason")
		s.recheck(t.Context())
		require.Zero(t, r.calls, "nor is it one when the next look comes within the same moment")
		<-time.After(recheckInterval)
		require.NoError(t, b.Put(t.Context(), objectName, bytes.NewReader(data), int64(len(data))))
		s.recheck(t.Context())
		require.Zero(t, r.calls)
		require.Empty(t, s.damaged)

		require.NoError(t, b.Delete(t.Context(), objectName))
		s.round(t.Context())
		<-time.After(recheckInterval - 1)
		s.recheckObjects(t.Context())
		require.Zero(t, r.calls, "what was found earlier does not count")
		<-time.After(1)
		s.noteReplica("n1/A", &logstore.CorruptError{File: "f", Reason: "r"})
		s.recheckObjects(t.Context())
		require.Zero(t, r.calls, "what the replica has is not known to be right")
		s.noteReplica("n1/A", nil)
		r.err = errLogIsCut
		s.recheckObjects(t.Context())
		require.Equal(t, 1, r.calls)
		require.InDelta(t, 1, testutil.ToFloat64(s.metrics.objects), 0)
		require.InDelta(t, 0, testutil.ToFloat64(s.metrics.rewritten), 0)
		r.err = nil
		s.recheckObjects(t.Context())
		require.Equal(t, 2, r.calls)
		require.InDelta(t, 0, testutil.ToFloat64(s.metrics.objects), 0)
		require.InDelta(t, 1, testutil.ToFloat64(s.metrics.rewritten), 0)
		s.recheckObjects(t.Context())
		require.Equal(t, 2, r.calls)
	})
}

// listGone has the manifest list a segment in an object that is not there, behind the ten records.
func (r *rewrites) listGone(name string) {
	r.t.Helper()
	res, err := r.m.state.Apply(r.m.View().Index()+1, &metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: name, ObjectBytes: 100, Segments: []*metav1.SegmentEntry{{
			PartitionId: 1, BaseOffset: 10, EndOffset: 20, Position: 8, SizeBytes: 50, IndexPosition: 58, IndexBytes: 20, MaxTimestampMs: 1,
		}},
	}}})
	require.NoError(r.t, err)
	require.Nil(r.t, res.GetRejection())
	require.Equal(r.t, []metav1.SegmentOutcome{metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED}, res.GetSegments())
}

// TestWhyAnObjectIsNotWrittenAnew: that an older version is needed is told once, and never for what may be over a minute later.
// Behind an error that others would have as well nobody waits.
func TestWhyAnObjectIsNotWrittenAnew(t *testing.T) {
	const told = "bring an older version of it back"
	final := map[string]error{"cut": fmt.Errorf("shard 0: %w", shard.ErrBelowLocal), "other records": fmt.Errorf("partition 1: %w", shard.ErrOtherRecords)}
	for what, err := range final {
		t.Run(what, func(t *testing.T) {
			s, r, logged := twoDamaged(t)
			r.err = errors.New("503 slow down")
			s.recheckObjects(t.Context())
			require.Equal(t, 1, r.calls, "the second would wait as well")
			require.NotContains(t, logged.String(), told)
			require.Contains(t, logged.String(), "503 slow down")
			r.err = err
			s.recheckObjects(t.Context())
			require.Equal(t, 3, r.calls)
			s.recheckObjects(t.Context())
			require.Equal(t, 5, r.calls)
			require.Equal(t, 2, strings.Count(logged.String(), told), "once of each, although something else was wrong before")
			require.Contains(t, logged.String(), err.Error())
		})
	}
	t.Run("listed, and the barrier failed", func(t *testing.T) {
		s, r, logged := twoDamaged(t)
		r.err, r.late = context.DeadlineExceeded, true
		s.recheckObjects(t.Context())
		require.InDelta(t, 1, testutil.ToFloat64(s.metrics.rewritten), 0)
		require.Contains(t, logged.String(), "was written anew from the log")
		require.NotContains(t, logged.String(), "level=ERROR")
		require.Len(t, s.damaged, 2)
		s.recheckObjects(t.Context())
		s.recheckObjects(t.Context())
		require.NotContains(t, logged.String(), "level=ERROR")
		require.Empty(t, s.damaged, "it is needed no more")
	})
	t.Run("no replica", func(t *testing.T) {
		s, r, logged := twoDamaged(t)
		s.cfg.Replicas = func() []Local { return nil }
		s.recheckObjects(t.Context())
		require.Zero(t, r.calls)
		require.Equal(t, 2, strings.Count(logged.String(), told))
	})
	t.Run("the object store does not answer", func(t *testing.T) {
		s, r, logged := twoDamaged(t)
		heads := 0
		s.cfg.Bucket.(*object.Memory).Before = func(context.Context, string, string) error {
			heads++
			return context.DeadlineExceeded
		}
		s.recheckObjects(t.Context())
		require.Equal(t, 1, heads)
		require.Zero(t, r.calls)
		require.NotContains(t, logged.String(), "level=ERROR")
		require.Len(t, s.damaged, 2)
	})
}

// twoDamaged makes a scrubber that has noted two objects which are gone, and returns what it logs from then on.
func twoDamaged(t *testing.T) (*Scrubber, *rewrites, *bytes.Buffer) {
	t.Helper()
	m, b, _ := stored(t)
	require.NoError(t, b.Delete(t.Context(), objectName))
	r := &rewrites{t: t, m: m}
	r.listGone("C/00/0/b.seg")
	s := newScrubber(t, m, b, nil, Local{Replica: &fakeReplica{id: "n1/A", leads: true}})
	s.cfg.Rewrite = r.rewrite
	s.round(t.Context())
	require.Len(t, s.damaged, 2)
	for _, n := range s.damaged {
		n.at = n.at.Add(-recheckInterval)
	}
	var logged bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&logged, nil))
	return s, r, &logged
}

// behind is metadata that has not caught up.
type behind struct{ fakeMetadata }

func (behind) Barrier(context.Context) error { return context.DeadlineExceeded }

// TestNothingIsForgottenBehind: a node that does not know what the manifest lists by now forgets nothing.
func TestNothingIsForgottenBehind(t *testing.T) {
	m, b, _ := stored(t)
	s := newScrubber(t, m, b, nil)
	s.noteObject("unknown", true)
	s.cfg.Metadata = behind{m}
	s.recheckObjects(t.Context())
	require.Len(t, s.damaged, 1)
	s.cfg.Metadata = m
	s.recheckObjects(t.Context())
	require.Empty(t, s.damaged)
}

// TestRestartForgetsNothing: what was found damaged is told from the start on, and a round that is due begins soon, however
// often the node is restarted.
func TestRestartForgetsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scrub.json")
	synctest.Test(t, func(t *testing.T) {
		m, b, _ := stored(t)
		require.NoError(t, b.Delete(t.Context(), objectName))
		start := func(d time.Duration) *Scrubber {
			t.Helper()
			cfg := newScrubber(t, m, b, nil, Local{Replica: &fakeReplica{leads: true}}).cfg
			cfg.StatePath = path
			s, err := New(cfg)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			require.NoError(t, s.Run(ctx))
			return s
		}
		rounds := func(s *Scrubber) float64 { return testutil.ToFloat64(s.metrics.rounds) }
		require.InDelta(t, 0, rounds(start(30*time.Minute)), 0)
		require.InDelta(t, 0, rounds(start(29*time.Minute)), 0)
		require.InDelta(t, 1, rounds(start(2*time.Minute)), 0, "an hour after the first start")
		cfg := newScrubber(t, m, b, nil).cfg
		cfg.StatePath = path
		s, err := New(cfg)
		require.NoError(t, err)
		require.InDelta(t, 1, testutil.ToFloat64(s.metrics.objects), 0, "before anything was read again")
		<-time.After(10 * time.Hour)
		require.InDelta(t, 0, rounds(start(59*time.Second)), 0)
		require.InDelta(t, 1, rounds(start(2*time.Minute)), 0, "it is due, and begins soon after the start")
		require.InDelta(t, 1, rounds(start(time.Hour)), 0)
	})
}

// TestUnreadableState: where nobody knows what was found before, all is read again soon; and what can't be written is written
// later.
func TestUnreadableState(t *testing.T) {
	dir := t.TempDir()
	m, b, _ := stored(t)
	for name, data := range map[string]string{"torn": `{"version":1,"rou`, "newer": `{"version":2}`, "empty": ""} {
		t.Run(name, func(t *testing.T) {
			cfg := newScrubber(t, m, b, nil).cfg
			cfg.StatePath = filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(cfg.StatePath, []byte(data), 0o600))
			s, err := New(cfg)
			require.NoError(t, err)
			require.Zero(t, s.untilDue())
			s.save()
			was, err := readSaved(cfg.StatePath)
			require.NoError(t, err)
			require.True(t, was.RoundBegan.IsZero())
		})
	}
	cfg := newScrubber(t, m, b, nil).cfg
	cfg.StatePath = filepath.Join(dir, "gone", "scrub.json")
	s, err := New(cfg)
	require.NoError(t, err)
	s.noteObject("a", true)
	s.save()
	require.NoError(t, os.Mkdir(filepath.Dir(cfg.StatePath), 0o700))
	s.save()
	was, err := readSaved(cfg.StatePath)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, was.DamagedObjects)
	require.NoError(t, os.Remove(cfg.StatePath))
	s.save()
	_, err = readSaved(cfg.StatePath)
	require.ErrorIs(t, err, os.ErrNotExist, "nothing has changed")
}
