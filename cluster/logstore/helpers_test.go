package logstore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type opener func(Config) (*Store, error)

// both are the two stores; every test that does not need one of them runs over both.
var both = map[string]opener{"wal": OpenWAL, "bolt": OpenBolt}

// config makes the files of a new store; a fatal error fails the test.
func config(tb testing.TB) Config {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "store")
	require.NoError(tb, os.Mkdir(dir, 0o750))
	require.NoError(tb, Create(dir))
	return Config{Dir: dir, Fatal: func(err error) { tb.Errorf("fatal: %v", err) }}
}

// fatals counts the calls of Fatal.
func fatals(cfg *Config) (calls *atomic.Int32, last *atomic.Value) {
	calls, last = new(atomic.Int32), new(atomic.Value)
	cfg.Fatal = func(err error) { calls.Add(1); last.Store(err.Error()) }
	return calls, last
}

// openStore opens and verifies a store without a snapshot.
func openStore(tb testing.TB, open opener, cfg Config) *Store {
	tb.Helper()
	s, err := openVerified(open, cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func openVerified(open opener, cfg Config) (*Store, error) {
	s, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.Verify(0, 0); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// entry returns the entry of an index with n bytes of data.
func entry(index uint64, n int) *raft.Log {
	data := bytes.Repeat(fmt.Appendf(nil, "entry number %d ", index), n/14+1)[:n]
	l := &raft.Log{Index: index, Term: 1 + index/50, Type: raft.LogCommand, Data: data, AppendedAt: time.Unix(int64(index), 0).UTC()}
	if index%3 == 0 {
		l.Extensions = fmt.Appendf(nil, "extension %d", index)
	}
	return l
}

func entries(from, to uint64, bytes int) []*raft.Log {
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, entry(i, bytes))
	}
	return logs
}

// fill stores entries one by one, with the term that they have.
func fill(tb testing.TB, s *Store, from, to uint64, bytes int) {
	tb.Helper()
	for _, l := range entries(from, to, bytes) {
		require.NoError(tb, s.StoreLog(l))
	}
	require.NoError(tb, s.SetUint64(keyCurrentTerm, 1+to/50))
}

// requireEntries checks that the log has exactly these entries.
func requireEntries(tb testing.TB, s *Store, from, to uint64, bytes int) {
	tb.Helper()
	first, err := s.FirstIndex()
	require.NoError(tb, err)
	last, err := s.LastIndex()
	require.NoError(tb, err)
	require.Equal(tb, []uint64{from, to}, []uint64{first, last})
	total := 0
	for i := from; i <= to; i++ {
		var l raft.Log
		require.NoError(tb, s.GetLog(i, &l), "entry %d", i)
		want := entry(i, bytes)
		want.AppendedAt = l.AppendedAt // which is only for metrics, and has no CRC
		require.Equal(tb, *want, l)
		total += logBytes(want)
	}
	require.EqualValues(tb, total, s.LogBytes())
	require.ErrorIs(tb, s.GetLog(to+1, new(raft.Log)), raft.ErrLogNotFound)
}
