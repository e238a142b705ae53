package recovery

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/object"
)

func TestGroups(t *testing.T) {
	b := object.NewMemory()
	var logged bytes.Buffer
	g := &Groups{Bucket: b, Grace: time.Hour, Logger: slog.New(slog.NewTextHandler(&logged, nil))}
	load := func(recoveryID string, bad ...string) (string, bool) {
		var got string
		_, found, err := g.Load(t.Context(), "C", 1, recoveryID, func(data []byte) error {
			if slices.Contains(bad, string(data)) {
				return errors.New("damaged")
			}
			got = string(data)
			return nil
		})
		require.NoError(t, err)
		return got, found
	}
	m := newFakeMetadata(t)
	m.checkpoint(b)
	p := plan(t, b)
	require.NoError(t, p.Execute(t.Context(), b))
	life := p.View.RecoveryID()
	_, found := load(life)
	require.False(t, found)
	require.NoError(t, g.Save(t.Context(), "C", 1, "", 5, []byte("old")))
	require.NoError(t, g.Save(t.Context(), "C", 1, "", 20, []byte("new")))
	require.NoError(t, g.Save(t.Context(), "C", 1, "", 3, []byte("of a leader that was deposed")))
	require.NoError(t, g.Save(t.Context(), "C", 2, "", 30, []byte("another shard")))
	got, _ := load(life)
	require.Equal(t, "new", got)
	require.Empty(t, logged.String())
	got, _ = load(life, "new")
	require.Equal(t, "old", got)
	require.Equal(t, 1, strings.Count(logged.String(), "are damaged"), logged.String())
	require.NoError(t, g.Save(t.Context(), "C", 1, life, 2, []byte("of this life")))
	got, _ = load(life)
	require.Equal(t, "new", got, "what comes after a recovery is not what it goes on from")
	require.NoError(t, g.Save(t.Context(), "C", 1, "", 99, []byte("of the first life, too late")))
	got, _ = load(ulid.MustNew(ulid.Now()+1, ulid.DefaultEntropy()).String())
	require.Equal(t, "of this life", got)
}

// TestLivesSinceOffsetsWereSaved: with the offsets come the ends that partitions had where each later life began, and not
// those of lives that nobody began, nor what was written since.
func TestLivesSinceOffsetsWereSaved(t *testing.T) {
	b := object.NewMemory()
	var logged bytes.Buffer
	g := &Groups{Bucket: b, Grace: time.Hour, Logger: slog.New(slog.NewTextHandler(&logged, nil))}
	m := newFakeMetadata(t)
	m.create("orders")
	m.upload(b, 0, 5)
	require.NoError(t, g.Save(t.Context(), "C", 1, "", 5, []byte("offsets")))
	m.checkpoint(b)
	require.NoError(t, plan(t, b).Execute(t.Context(), b)) // nobody begins with it
	var lives []string
	for i := range 3 {
		m.upload(b, int64(5+i), 1)
		m.checkpoint(b)
		require.NoError(t, plan(t, b).Execute(t.Context(), b))
		m = begun(t, b, "n1")
		lives = append(lives, m.View().RecoveryID())
	}
	m.upload(b, 8, 10)
	ends := func(recoveryID string) []int64 {
		t.Helper()
		began, found, err := g.Load(t.Context(), "C", 1, recoveryID, func([]byte) error { return nil })
		require.NoError(t, err)
		require.True(t, found)
		var ends []int64
		for _, v := range began {
			if v == nil {
				ends = append(ends, -1)
				continue
			}
			tp, _ := v.Topic("orders")
			p, _ := v.Partition(tp.PartitionIDs[0])
			ends = append(ends, p.NextBase())
		}
		return ends
	}
	require.Equal(t, []int64{6, 7, 8}, ends(lives[2]))
	require.Equal(t, []int64{6}, ends(lives[0]))
	require.Empty(t, logged.String())
	require.NoError(t, b.Delete(t.Context(), recoveryName("C", lives[1])))
	require.Equal(t, []int64{6, -1, 8}, ends(lives[2]))
	require.Contains(t, logged.String(), lives[1])
	b.Before = func(_ context.Context, _, name string) error {
		if strings.HasSuffix(name, lives[0]+metaSuffix) {
			return object.ErrUnavailable
		}
		return nil
	}
	_, _, err := g.Load(t.Context(), "C", 1, lives[2], func([]byte) error { return nil })
	require.ErrorIs(t, err, object.ErrUnavailable, "a store that is away is no loss")
}
