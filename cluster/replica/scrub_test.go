package replica

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
