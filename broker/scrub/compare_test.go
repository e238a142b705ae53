package scrub

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
)

var errDown = errors.New("connection refused")

// fakePeers are the scrubbers of all nodes, without a wire.
type fakePeers map[string]*fakePeer

func (p fakePeers) Client(nodeID string) (nodev1.NodeServiceClient, error) {
	if p[nodeID] == nil {
		return nil, errDown
	}
	return p[nodeID], nil
}

// fakePeer is one node.
type fakePeer struct {
	nodev1.NodeServiceClient

	scrubber *Scrubber
	replica  *fakeReplica
	repaired []error // the causes
	err      error   // of every call
	asked    []*nodev1.DigestLogRequest
}

func (p *fakePeer) DigestLog(ctx context.Context, req *nodev1.DigestLogRequest, _ ...grpc.CallOption) (*nodev1.DigestLogResponse, error) {
	p.asked = append(p.asked, req)
	if p.err != nil {
		return nil, p.err
	}
	return p.scrubber.DigestLog(ctx, req)
}

// nodes makes a group whose voters n1, n2 … have these logs, and whose other members, behind an empty one, do not vote.
func nodes(t *testing.T, logs ...[]string) (fakePeers, []*fakePeer) {
	t.Helper()
	m, b, _ := stored(t)
	peers := fakePeers{}
	var all []*fakePeer
	var servers []replica.Server
	voter := true
	for _, log := range logs {
		if log == nil {
			voter = false
			continue
		}
		node := "n" + string(rune('1'+len(all)))
		p := &fakePeer{replica: &fakeReplica{id: node + "/A", first: 1, entries: log}}
		p.scrubber = newScrubber(t, m, b, nil, Local{Replica: p.replica, Shard: 7})
		p.scrubber.cfg.Peers = peers
		p.scrubber.cfg.Repair = func(_ context.Context, _ Local, cause error) error {
			p.repaired = append(p.repaired, cause)
			return nil
		}
		servers = append(servers, replica.Server{ReplicaID: p.replica.id, Voter: voter})
		peers[node] = p
		all = append(all, p)
	}
	for _, p := range all {
		p.replica.servers = servers
	}
	return peers, all
}

func (p *fakePeer) compared() float64 { return testutil.ToFloat64(p.scrubber.metrics.compared) }
func (p *fakePeer) diverged() float64 { return testutil.ToFloat64(p.scrubber.metrics.diverged) }

// TestReplicasAreCompared: who is damaged where logs differ.
func TestReplicasAreCompared(t *testing.T) {
	good, bad, worse := []string{"a", "b", "c"}, []string{"a", "X", "c"}, []string{"a", "Y", "c"}
	for name, tc := range map[string]struct {
		logs     [][]string
		change   func(all []*fakePeer)
		repaired []string // nodes
		reported []string // nodes
		compared []float64
	}{
		"equal":                {logs: [][]string{good, good, good}, compared: []float64{3, 3, 3}},
		"the first":            {logs: [][]string{bad, good, good}, repaired: []string{"n1"}, reported: []string{"n1"}, compared: []float64{3, 3, 3}},
		"the last":             {logs: [][]string{good, good, bad}, repaired: []string{"n3"}, reported: []string{"n3"}, compared: []float64{3, 3, 3}},
		"two of two":           {logs: [][]string{good, bad}, reported: []string{"n1", "n2"}, compared: []float64{3, 3}},
		"three of three":       {logs: [][]string{good, bad, worse}, reported: []string{"n1", "n2", "n3"}, compared: []float64{3, 3, 3}},
		"two of five":          {logs: [][]string{good, good, good, bad, worse}, repaired: []string{"n4", "n5"}, reported: []string{"n4", "n5"}, compared: []float64{3, 3, 3, 3, 3}},
		"no voter":             {logs: [][]string{good, good, good, nil, bad}, repaired: []string{"n4"}, reported: []string{"n4"}, compared: []float64{3, 3, 3, 3}},
		"no voter against one": {logs: [][]string{good, nil, bad}, reported: []string{"n2"}, compared: []float64{0, 3}},
		"alone":                {logs: [][]string{good}, compared: []float64{0}},
		"one is down": {
			logs: [][]string{good, bad, good}, change: func(all []*fakePeer) { all[2].err = errDown },
			reported: []string{"n1", "n2"}, compared: []float64{3, 3, 3},
		},
		"one is old": {
			logs: [][]string{good, good, good}, change: func(all []*fakePeer) { all[2].err = status.Error(codes.Unimplemented, "unknown method") },
			compared: []float64{3, 3, 3},
		},
		"all others are old": {
			logs: [][]string{good, good}, change: func(all []*fakePeer) { all[1].err = status.Error(codes.Unimplemented, "unknown method") },
			compared: []float64{0, 3},
		},
		"one is switched off": {
			logs: [][]string{good, bad}, change: func(all []*fakePeer) { all[1].scrubber.cfg.BytesPerSecond = 0 }, compared: []float64{0, 0},
		},
		"another replica is there": {
			logs: [][]string{good, bad}, change: func(all []*fakePeer) { all[1].replica.id = "n2/B" }, compared: []float64{0, 3},
			reported: []string{"n2"}, // it does not know that it is another one
		},
		"one has cut the difference": {
			logs: [][]string{good, bad}, change: func(all []*fakePeer) {
				all[1].replica.first, all[1].replica.entries = 3, all[1].replica.entries[2:]
			},
			compared: []float64{1, 1},
		},
		"one has not applied the difference": {
			logs: [][]string{good, good, {"a"}}, compared: []float64{3, 3, 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, all := nodes(t, tc.logs...)
				if tc.change != nil {
					tc.change(all)
				}
				var repaired, reported []string
				for i, p := range all {
					if p.scrubber.cfg.BytesPerSecond > 0 {
						p.scrubber.round(t.Context())
					}
					node := "n" + string(rune('1'+i))
					for _, cause := range p.repaired {
						repaired = append(repaired, node)
						var d *DivergedError
						require.ErrorAs(t, cause, &d)
						require.Equal(t, node+"/A", d.Replica)
						require.NotContains(t, d.Majority, node+"/A")
						require.NotEmpty(t, d.Majority)
					}
					if p.diverged() > 0 {
						reported = append(reported, node)
					}
					require.InDelta(t, tc.compared[i], p.compared(), 0, node)
				}
				require.Equal(t, tc.repaired, repaired)
				require.Equal(t, tc.reported, reported)
			})
		})
	}
}

// TestDifferenceIsLookedAtAgain: who is right may be known later, and what was mended is not told any more.
func TestDifferenceIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers, all := nodes(t, []string{"a", "b"}, []string{"a", "X"}, []string{"a", "b"})
		peers["n3"] = nil
		for _, p := range all[:2] {
			p.scrubber.round(t.Context())
			require.Empty(t, p.repaired)
			require.InDelta(t, 1, p.diverged(), 0)
		}
		peers["n1"] = nil
		all[1].scrubber.recheck(t.Context())
		require.InDelta(t, 1, all[1].diverged(), 0, "nobody says that it is mended")
		peers["n1"], peers["n3"] = all[0], all[2]
		all[0].scrubber.recheck(t.Context())
		require.Empty(t, all[0].repaired)
		require.InDelta(t, 0, all[0].diverged(), 0, "it is right")
		all[1].scrubber.recheck(t.Context())
		require.Len(t, all[1].repaired, 1)
		require.InDelta(t, 1, all[1].diverged(), 0)
		all[1].replica.id = "n2/B"
		all[1].scrubber.recheck(t.Context())
		require.InDelta(t, 0, all[1].diverged(), 0, "it was rebuilt")
		require.Len(t, all[1].repaired, 1)
	})
}

// TestMisreadIsNoDifference: what is read wrongly once is no damage.
func TestMisreadIsNoDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, all := nodes(t, []string{"a", "b"}, []string{"a", "b"}, []string{"a", "b"})
		all[0].scrubber.cfg.Replicas = func() []Local { return []Local{{Replica: &misreading{fakeReplica: all[0].replica}, Shard: 7}} }
		all[0].scrubber.round(t.Context())
		require.Empty(t, all[0].repaired)
		require.InDelta(t, 0, all[0].diverged(), 0)
	})
}

// misreading returns another digest the first time.
type misreading struct {
	*fakeReplica

	reads int
}

func (r *misreading) Digest(ctx context.Context, first, last uint64, maxBytes int64) (replica.Digest, error) {
	d, err := r.fakeReplica.Digest(ctx, first, last, maxBytes)
	if r.reads++; r.reads == 1 {
		d.Sum[0] ^= 1
	}
	return d, err
}

// TestComparisonIsBounded: no node reads faster for itself, and beside it for others, than it may, and what is compared at
// once is small.
func TestComparisonIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := make([]string, 10_000)
		for i := range long {
			long[i] = strings.Repeat("x", 1<<10)
		}
		_, all := nodes(t, long, long, long)
		const bytes = 10_000 << 10 // at 1 MiB a second
		began := time.Now()
		all[0].scrubber.round(t.Context())
		require.InDelta(t, 10_000, all[0].compared(), 0)
		least := 3 * bytes * time.Second / (1 << 20) // itself and the two others, one after the other
		require.GreaterOrEqual(t, time.Since(began), least)
		require.Less(t, time.Since(began), least+time.Second)
		for _, p := range all[1:] {
			require.Len(t, p.asked, 1+10, "what it has, and ten runs")
			for _, req := range p.asked[1:] {
				require.Less(t, req.GetLastIndex()-req.GetFirstIndex(), uint64(compareEntries))
			}
		}

		// Two ask the third at the same time: it reads for one after the other.
		began = time.Now()
		done := make(chan bool, 2)
		for range 2 {
			go func() {
				res, err := all[0].scrubber.DigestLog(t.Context(), &nodev1.DigestLogRequest{
					Group: &nodev1.Group{Shard: 7}, FirstIndex: 1, LastIndex: 1024,
				})
				done <- err == nil && len(res.GetSha256()) > 0
			}()
		}
		require.True(t, <-done)
		require.True(t, <-done)
		require.GreaterOrEqual(t, time.Since(began), 2*time.Second)
		res, err := all[0].scrubber.DigestLog(t.Context(), &nodev1.DigestLogRequest{Group: &nodev1.Group{Shard: 7}, FirstIndex: 1, LastIndex: 1025})
		require.NoError(t, err)
		require.Empty(t, res.GetSha256(), "it is too much at once")
		res, err = all[0].scrubber.DigestLog(t.Context(), &nodev1.DigestLogRequest{Group: &nodev1.Group{Shard: 8}, FirstIndex: 1, LastIndex: 1})
		require.NoError(t, err)
		require.Empty(t, res.GetReplicaId(), "it has no replica of that shard")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = all[0].scrubber.DigestLog(ctx, &nodev1.DigestLogRequest{Group: &nodev1.Group{Shard: 7}, FirstIndex: 1, LastIndex: 1})
		require.ErrorIs(t, err, context.Canceled)
	})
}
