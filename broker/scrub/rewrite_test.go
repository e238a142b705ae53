package scrub

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/cluster/logstore"
)

// rewrites stands for the shards: it has the manifest list an object under another name.
type rewrites struct {
	t     *testing.T
	m     fakeMetadata
	err   error
	calls int
}

func (r *rewrites) rewrite(_ context.Context, _ uint32, object string, listed []*metav1.SegmentEntry) (int, error) {
	r.calls++
	if r.err != nil {
		return 0, r.err
	}
	res, err := r.m.state.Apply(r.m.View().Index()+1, &metav1.Command{Command: &metav1.Command_ReplaceSegments{
		ReplaceSegments: &metav1.ReplaceSegments{Object: object, Replacement: object + "2", ReplacementBytes: 1 << 20, Segments: listed},
	}})
	require.NoError(r.t, err)
	require.Nil(r.t, res.GetRejection())
	return len(listed), nil
}

// TestDamagedObjectIsWrittenAnew: once it was found damaged twice, from a replica that is right; then it is told no more.
func TestDamagedObjectIsWrittenAnew(t *testing.T) {
	m, b, data := stored(t)
	require.NoError(t, b.Delete(t.Context(), objectName))
	replica := &fakeReplica{id: "n1/A", leads: true}
	s := newScrubber(t, m, b, nil, Local{Replica: replica})
	r := &rewrites{t: t, m: m}
	s.cfg.Rewrite = r.rewrite
	s.round(t.Context())
	require.Zero(t, r.calls, "a bucket that was away for a moment is no reason")
	require.NoError(t, b.Put(t.Context(), objectName, bytes.NewReader(data), int64(len(data))))
	s.recheck(t.Context())
	require.Zero(t, r.calls)
	require.Empty(t, s.damaged)

	require.NoError(t, b.Delete(t.Context(), objectName))
	s.round(t.Context())
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
