package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
)

// newTrio starts a shard with three replicas.
func newTrio(t *testing.T, change func(*Config)) []*node {
	t.Helper()
	m, bucket := newMetadata(t, 1), object.NewMemory()
	var nodes []*node
	peers := make(map[string]string)
	for _, id := range []string{"n1", "n2", "n3"} {
		n := newIdleNode(t, id, m, bucket, change)
		peers[id] = n.tr.Addr().String()
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.peers = peers
		n.start()
	}
	require.NoError(t, nodes[0].shard.Replica().Bootstrap())
	nodes[0].waitLeader()
	for _, n := range nodes[1:] {
		for _, step := range []nodev1.MembershipChange{
			nodev1.MembershipChange_MEMBERSHIP_CHANGE_ADD_NONVOTER, nodev1.MembershipChange_MEMBERSHIP_CHANGE_PROMOTE,
		} {
			require.Eventually(t, func() bool {
				r := leaderOf(nodes).shard.Replica()
				_, err := r.ChangeMembership(t.Context(), step, n.replicaID(), n.tr.Addr().String(), r.Status().ConfigurationIndex)
				return err == nil
			}, 20*time.Second, 10*time.Millisecond)
		}
	}
	return nodes
}

// leaderOf returns the node that leads and has applied everything, once there is one.
func leaderOf(nodes []*node) *node {
	var leader *node
	require.Eventually(nodes[0].t, func() bool {
		for _, n := range nodes {
			if n.shard.checkLeader() == nil {
				leader = n
			}
		}
		return leader != nil
	}, 20*time.Second, time.Millisecond)
	return leader
}

// storm does all that a shard can be asked for, on every replica at once, until its context ends.
type storm struct {
	t     *testing.T
	nodes []*node
	calls [3]atomic.Int64 // by replica
}

// allowed says whether a call may end so while leaders change.
func (s *storm) allowed(what string, err error) {
	_, elsewhere := errors.AsType[*NotLeaderError](err)
	for _, ok := range []error{
		nil, ErrNotReady, ErrUnknownOutcome, ErrBehind, ErrBelowLocal, ErrNoGroup,
		group.ErrUnknownMember, group.ErrFencedEpoch, context.Canceled, context.DeadlineExceeded,
	} {
		if elsewhere || errors.Is(err, ok) {
			return
		}
	}
	s.t.Errorf("%s: %v", what, err)
}

// ask makes every call of one replica, again and again.
func (s *storm) ask(ctx context.Context, i int) {
	sh := s.nodes[i].shard
	for n := 0; ctx.Err() == nil; n++ {
		call, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		_, err := sh.Append(call, []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(s.t, 1, "x")}}, n%4 == 0)
		s.allowed("append", err)
		s.allowed("commit", sh.CommitOffsets(call, "simple", Committer{}, []GroupOffset{{PartitionID: 1, Offset: int64(n)}}))
		_, err = sh.RunGroup(call, heartbeat("g", fmt.Sprint("m", i), 0, int64(n+1)))
		s.allowed("group", err)
		_, err = sh.Offsets("simple", nil)
		s.allowed("offsets", err)
		_, err = sh.LeaderHighWatermark(1)
		s.allowed("high watermark", err)
		_, err = sh.Read(call, 1, sh.HighWatermark(1)/2, 1000)
		s.allowed("read", err)
		_, _, _, err = sh.FindTime(call, 1, 1001)
		s.allowed("find", err)
		_ = sh.checkpoint(call) // the leader's snapshot may overtake it
		sh.BacklogAge()
		sh.Progress()
		sh.Rebalances()
		sh.Replica().Behind()
		sh.Replica().Status()
		cancel()
		s.calls[i].Add(1)
	}
}

// producerID is that of the producer in a storm.
const producerID = 7

// produce writes batches of one record in their order, each until it is stored, and returns how many are.
func (s *storm) produce(ctx context.Context) int {
	for seq := 0; ; seq++ {
		b := AppendBatch{PartitionID: 1, Topic: "t", Data: buildBatch(s.t, batchConfig{n: 1, id: producerID, seq: int32(seq)})}
		for i := 0; ; i++ {
			if ctx.Err() != nil {
				return seq
			}
			call, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			results, err := s.nodes[i%len(s.nodes)].shard.Append(call, []AppendBatch{b}, false)
			cancel()
			s.allowed("produce", err)
			if err == nil {
				if results[0].Reason != reasonNone {
					s.t.Errorf("batch %d: %+v", seq, results[0])
				}
				break
			}
		}
	}
}

// requireStored reads everything and checks that the producer's first n batches are there, each once, in order; one more may
// be there whose answer nobody waited for.
func (s *storm) requireStored(n int) {
	s.t.Helper()
	leader := leaderOf(s.nodes)
	next := int32(0)
	for offset := int64(0); offset < leader.shard.HighWatermark(1); {
		batches, err := record.Split(leader.read(1, offset))
		require.NoError(s.t, err)
		require.NotEmpty(s.t, batches)
		for _, b := range batches {
			if b.ProducerID() == producerID {
				require.Equal(s.t, next, b.BaseSequence())
				next++
			}
			require.Equal(s.t, offset, b.BaseOffset())
			offset = b.NextOffset()
		}
	}
	require.GreaterOrEqual(s.t, next, int32(n))
	require.LessOrEqual(s.t, next, int32(n+1))
	s.t.Logf("%d batches stored", n)
}

// nil-at-election: leadership is gained and lost at every point of every operation, and nothing panics; what an idempotent
// producer was told to be stored is there once and in order.
func TestNilAtElection(t *testing.T) {
	nodes := newTrio(t, nil)
	s := &storm{t: t, nodes: nodes}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() { s.ask(ctx, i) })
	}
	stored := make(chan int, 1)
	wg.Go(func() { stored <- s.produce(ctx) })
	for i, changes := 0, 0; changes < 20; i++ {
		from, to := leaderOf(nodes), nodes[i%len(nodes)]
		// Raft may say that it took too long, or that an election came before it.
		if to != from && from.shard.Replica().TransferTo(ctx, to.replicaID()) == nil {
			changes++
		}
	}
	stop()
	wg.Wait()
	for i := range s.calls {
		require.Positive(t, s.calls[i].Load())
	}
	s.requireStored(<-stored)
}

// healthy-loss: without any fault, everything that several writers were told to be stored is read back in full through every
// replica, and from the object store.
func TestHealthyLossOfAShard(t *testing.T) {
	const writers, each = 4, 250
	nodes := newTrio(t, func(c *Config) { c.Replica.Timeouts = replicaTimeouts(time.Second) })
	stored := make(map[int64]string) // by offset
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				value := fmt.Sprintf("%d/%d/", w, i)
				b := AppendBatch{PartitionID: 1, Topic: "t", Data: buildBatch(t, batchConfig{n: 1, id: int64(w), seq: int32(i), value: value})}
				results, err := leaderOf(nodes).shard.Append(t.Context(), []AppendBatch{b}, i%50 == 0)
				for err != nil && t.Context().Err() == nil { // a busy machine elects a leader now and then
					results, err = leaderOf(nodes).shard.Append(t.Context(), []AppendBatch{b}, false)
				}
				if err != nil || results[0].Reason != reasonNone {
					t.Errorf("%s: %+v, %v", value, results, err)
					return
				}
				mu.Lock()
				stored[results[0].BaseOffset] = value + "0"
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	want := make(log, len(stored))
	for offset, value := range stored {
		require.Less(t, offset, int64(len(want)), "an offset is missing")
		want[offset] = value
	}
	require.Len(t, want, writers*each)
	leaderOf(nodes).waitUploaded()
	for _, cut := range []bool{false, true} {
		for _, n := range nodes {
			if cut {
				n.checkpoint()
				n.end()
				n.start() // with nothing in memory
			}
			require.Eventually(t, func() bool { return n.shard.HighWatermark(1) == int64(len(want)) }, 20*time.Second, 10*time.Millisecond)
			n.requireLog(1, 0, want)
		}
	}
}
