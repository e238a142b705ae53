package benchmarks

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// nothing is a state machine without state.
type nothing struct{}

var _ raft.FSM = nothing{}

// Apply implements raft.FSM.
func (nothing) Apply(*raft.Log) any { return nil }

// Snapshot implements raft.FSM.
func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nothing{}, nil }

// Restore implements raft.FSM.
func (nothing) Restore(r io.ReadCloser) error { return r.Close() }

// Persist implements raft.FSMSnapshot.
func (nothing) Persist(sink raft.SnapshotSink) error { return sink.Close() }

// Release implements raft.FSMSnapshot.
func (nothing) Release() {}

// bareRaft is one group of hashicorp/raft on raft-wal: three replicas in this
// process over loopback TCP, with nothing of ours.
type bareRaft struct {
	leader *raft.Raft
	close  func()
}

func startBareRaft(b *testing.B) *bareRaft {
	b.Helper()
	dir := b.TempDir()
	var (
		servers    []raft.Server
		transports []*raft.NetworkTransport
		replicas   []*raft.Raft
		logs       []*wal.WAL
	)
	for i := range 3 {
		tr, err := raft.NewTCPTransport("127.0.0.1:0", nil, 3, 10*time.Second, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		transports = append(transports, tr)
		servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: tr.LocalAddr()})
	}
	for i := range 3 {
		cfg := raft.DefaultConfig()
		cfg.LocalID = servers[i].ID
		cfg.Logger = hclog.NewNullLogger()
		cfg.BatchApplyCh = true
		cfg.SnapshotInterval, cfg.SnapshotThreshold = time.Hour, 1<<60
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(path, 0o700); err != nil {
			b.Fatal(err)
		}
		log, err := wal.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		logs = append(logs, log)
		snapshots := raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(cfg, log, log, snapshots, transports[i], raft.Configuration{Servers: servers}); err != nil {
			b.Fatal(err)
		}
		r, err := raft.NewRaft(cfg, nothing{}, log, log, snapshots, transports[i])
		if err != nil {
			b.Fatal(err)
		}
		replicas = append(replicas, r)
	}
	g := &bareRaft{close: sync.OnceFunc(func() {
		for i := range replicas {
			_ = replicas[i].Shutdown().Error()
			_ = transports[i].Close()
			_ = logs[i].Close()
		}
		_ = os.RemoveAll(dir)
	})}
	b.Cleanup(g.close)
	g.leader = waitBareLeader(b, replicas)
	return g
}

func waitBareLeader(b *testing.B, replicas []*raft.Raft) *raft.Raft {
	b.Helper()
	deadline, tick := time.NewTimer(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for {
		for _, r := range replicas {
			if r.State() == raft.Leader && r.Barrier(time.Second).Error() == nil {
				return r
			}
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			b.Fatal("bare Raft has no leader")
		}
	}
}

// bareThroughput returns the MB/s that so many groups take together, in entries of 128 KiB with 32 of each group under way.
func bareThroughput(b *testing.B, groups int, during time.Duration) float64 {
	b.Helper()
	const entryBytes, underway = 128 << 10, 32
	var bytes atomic.Int64
	all := make([]*bareRaft, groups)
	for i := range all {
		all[i] = startBareRaft(b)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for _, g := range all {
		for range underway {
			wg.Go(func() {
				for time.Since(start) < during {
					if err := g.leader.Apply(make([]byte, entryBytes), 10*time.Second).Error(); err != nil {
						b.Error(err)
						return
					}
					bytes.Add(entryBytes)
				}
			})
		}
	}
	wg.Wait()
	took := time.Since(start)
	for _, g := range all {
		g.close()
	}
	return float64(bytes.Load()) / took.Seconds() / 1e6
}

// bareLatency returns the milliseconds of n applies of 1 KiB, one at a time.
func bareLatency(b *testing.B, g *bareRaft, n int) []float64 {
	b.Helper()
	took := make([]float64, 0, n)
	for range n {
		start := time.Now()
		if err := g.leader.Apply(make([]byte, 1<<10), 10*time.Second).Error(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start).Seconds()*1e3)
	}
	return took
}
