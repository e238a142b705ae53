package replica

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCreateFrom: a group begins with a state, takes entries, and gives all of it to others.
func TestCreateFrom(t *testing.T) {
	for _, store := range []Store{Bolt, WAL} {
		g := &group{addrs: make(map[string]string), heartbeat: 300 * time.Millisecond}
		m := &member{t: t, group: g, id: "n1/A", dir: filepath.Join(t.TempDir(), "n1", "A"), store: store}
		write := func(w io.Writer) error { _, err := io.WriteString(w, "a\nb"); return err }
		require.NoError(t, CreateFrom(m.dir, m.id, "127.0.0.1:1", write))
		require.ErrorIs(t, CreateFrom(m.dir, m.id, "127.0.0.1:1", write), os.ErrExist)
		require.NoError(t, m.start())
		t.Cleanup(m.close)
		requireEntries(t, m, "a", "b")
		leader(t, []*member{m})
		apply(t, []*member{m}, "c")
		requireEntries(t, m, "a", "b", "c")
		m.close()
		require.NoError(t, m.start())
		leader(t, []*member{m})
		requireEntries(t, m, "a", "b", "c")
		other := newMember(t, g, "n2/B", store)
		members := []*member{m, other}
		addVoter(t, members, other)
		apply(t, members, "d")
		requireEntries(t, other, "a", "b", "c", "d")
	}
}

func TestCreateFromFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n1", "A")
	bad := errors.New("bad")
	require.ErrorIs(t, CreateFrom(dir, "n1/A", "127.0.0.1:1", func(io.Writer) error { return bad }), bad)
	ok, err := Exists(dir)
	require.NoError(t, err)
	require.False(t, ok, "nothing starts with it")
}
