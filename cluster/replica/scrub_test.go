package replica

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/cluster/logstore"
)

// TestScrub: damage of a running replica's log or snapshot is named, and does not end the node.
func TestScrub(t *testing.T) {
	for _, store := range []Store{WAL, Bolt} {
		m := newGroup(t, 1, store)[0]
		apply(t, []*member{m}, strings.Repeat("a", 4000), strings.Repeat("b", 4000))
		require.NoError(t, m.replica.Checkpoint())
		apply(t, []*member{m}, strings.Repeat("c", 4000))
		var read int64
		count := func(ctx context.Context, n int64) error { read += n; return ctx.Err() }
		require.NoError(t, m.replica.Scrub(t.Context(), count))
		require.Greater(t, read, int64(12_000), "log and snapshot")
		stop := errors.New("enough")
		require.ErrorIs(t, m.replica.Scrub(t.Context(), func(context.Context, int64) error { return stop }), stop)

		flip := func(path, inside string) {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			at := bytes.Index(data, []byte(inside))
			require.GreaterOrEqual(t, at, 0)
			_, err = f.WriteAt([]byte{data[at] ^ 1}, int64(at))
			require.NoError(t, errors.Join(err, f.Close()))
		}
		corrupt := func(part string) {
			t.Helper()
			var c *logstore.CorruptError
			require.ErrorAs(t, m.replica.Scrub(t.Context(), count), &c)
			require.Contains(t, c.File, part)
		}
		states, err := filepath.Glob(filepath.Join(m.dir, "snapshots", "*", "state.bin"))
		require.NoError(t, err)
		require.NotEmpty(t, states)
		flip(states[len(states)-1], "bbbb")
		corrupt("snapshots")
		if store == WAL { // bbolt maps its file, and what is in memory is what it reads
			logs, err := filepath.Glob(filepath.Join(m.dir, "*.wal"))
			require.NoError(t, err)
			flip(logs[0], strings.Repeat("c", 100))
			corrupt(m.dir)
		}
		apply(t, []*member{m}, "it goes on")
	}
}

// TestDigest: equal logs have equal digests, and each part of an entry counts; a log that lacks entries says so.
func TestDigest(t *testing.T) {
	for _, store := range []Store{WAL, Bolt} {
		members := newCalmGroup(0).grow(t, 2, store)
		apply(t, members, "aaaa", "bbbb", "cccc")
		l := leader(t, members)
		last := l.replica.Raft().LastIndex()
		for _, m := range members {
			requireEntries(t, m, "aaaa", "bbbb", "cccc")
			all, err := m.replica.Digest(t.Context(), 1, last, 1<<20)
			require.NoError(t, err)
			want, err := l.replica.Digest(t.Context(), 1, last, 1<<20)
			require.NoError(t, err)
			require.Equal(t, want, all)
			part, err := m.replica.Digest(t.Context(), last-2, last, 8)
			require.NoError(t, err)
			require.Equal(t, last-1, part.Last, "it ends when it is full")
			require.EqualValues(t, 8, part.Bytes)
			require.NotEqual(t, all.Sum, part.Sum)
			_, err = m.replica.Digest(t.Context(), last, last+1, 1<<20)
			require.ErrorIs(t, err, raft.ErrLogNotFound)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = m.replica.Digest(ctx, 1, last, 1<<20)
			require.ErrorIs(t, err, context.Canceled)
		}
		require.NoError(t, l.replica.Checkpoint())
		_, err := l.replica.Digest(t.Context(), 1, last, 1<<20)
		require.ErrorIs(t, err, raft.ErrLogNotFound, "it was cut")
	}
}

// TestDigestCountsAll: another index, term, type or data is another digest.
func TestDigestCountsAll(t *testing.T) {
	seen := make(map[[32]byte]string)
	for name, logs := range map[string][]*raft.Log{
		"two":           {{Index: 1, Term: 1, Data: []byte("a")}, {Index: 2, Term: 1, Data: []byte("b")}},
		"data":          {{Index: 1, Term: 1, Data: []byte("a")}, {Index: 2, Term: 1, Data: []byte("c")}},
		"boundary":      {{Index: 1, Term: 1, Data: []byte("ab")}, {Index: 2, Term: 1}},
		"term":          {{Index: 1, Term: 1, Data: []byte("a")}, {Index: 2, Term: 2, Data: []byte("b")}},
		"type":          {{Index: 1, Term: 1, Data: []byte("a")}, {Index: 2, Term: 1, Data: []byte("b"), Type: raft.LogBarrier}},
		"one":           {{Index: 1, Term: 1, Data: []byte("a")}},
		"another index": {{Index: 2, Term: 1, Data: []byte("a")}},
	} {
		dir := filepath.Join(t.TempDir(), "r")
		require.NoError(t, Create(dir))
		s, err := logstore.OpenWAL(logstore.Config{Dir: dir, Fatal: func(err error) { t.Error(err) }})
		require.NoError(t, err)
		require.NoError(t, s.Verify(0, 0))
		require.NoError(t, s.StoreLogs(logs))
		r := &Replica{store: s}
		d, err := r.Digest(t.Context(), logs[0].Index, logs[len(logs)-1].Index, 1<<20)
		require.NoError(t, err)
		require.Empty(t, seen[d.Sum], "%s has the same", name)
		seen[d.Sum] = name
		if name == "two" {
			require.Equal(t, "1211fa58d6569df3f059cde8636df8b7eed53a44979c4cfe8cd50674f9ee384d", hex.EncodeToString(d.Sum[:]), "other nodes compute it too")
		}
		require.NoError(t, s.Close())
	}
}

// TestCondemned: a replica that was condemned runs on, counts as damaged, and is not opened again.
func TestCondemned(t *testing.T) {
	m := newGroup(t, 1, WAL)[0]
	apply(t, []*member{m}, "a")
	require.ErrorIs(t, m.replica.GiveUp(func() error {
		require.True(t, m.replica.GivingUp())
		return errUnreadable
	}), errUnreadable)
	require.False(t, m.replica.GivingUp())
	require.NoError(t, m.replica.Condemn("it differs"))
	apply(t, []*member{m}, "b")
	var c *logstore.CorruptError
	require.ErrorAs(t, m.replica.Scrub(t.Context(), func(context.Context, int64) error { return nil }), &c)
	m.close()
	c = nil
	require.ErrorAs(t, m.start(), &c)
	require.Equal(t, filepath.Join(m.dir, "condemned"), c.File)
	require.Equal(t, "it differs", c.Reason)
	m.close()
	require.NoError(t, Discard(m.dir))
	require.NoError(t, Create(m.dir))
	require.NoError(t, m.start(), "what comes after it is another one")
}
