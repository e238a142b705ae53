package broker

import (
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/storage/record"
)

// heldReplica leaves it to the test what becomes of the appends that begin.
type heldReplica struct {
	*fakeReplica
	begun chan heldAppend
}

// heldAppend is an append that has begun.
type heldAppend struct {
	batches []shard.AppendBatch
	answer  chan heldAnswer
}

type heldAnswer struct {
	results []shard.AppendResult
	err     error
}

func (r *heldReplica) BeginAppend(_ context.Context, batches []shard.AppendBatch, _ bool) (func(context.Context) ([]shard.AppendResult, error), error) {
	a := heldAppend{batches, make(chan heldAnswer, 1)}
	r.begun <- a
	return func(ctx context.Context) ([]shard.AppendResult, error) {
		select {
		case answer := <-a.answer:
			return answer.results, answer.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, nil
}

// heldStream writes groups of one batch each to shard 0, which the node leads.
type heldStream struct {
	*fixture
	*testStream
	replica *heldReplica
	ended   chan error
}

func newHeldStream(t *testing.T) *heldStream {
	t.Helper()
	s := &heldStream{
		fixture: newFixture(t, true),
		testStream: &testStream{
			requests: make(chan *streamhousev1.ProduceStreamRequest, 100), results: make(chan StreamResult, 100), err: io.EOF,
			released: make(chan struct{}, 100),
		},
		ended: make(chan error, 1),
	}
	s.meta.createTopic(t, "t", 1, nil)
	s.replica = &heldReplica{s.shards[0].on("n1"), make(chan heldAppend, 100)}
	s.local.add(0, s.replica)
	go func() { s.ended <- s.ProduceStream(t.Context(), s.testStream) }()
	return s
}

// send sends a batch of one large record under a sequence.
func (s *heldStream) send(t *testing.T, sequence int32) {
	t.Helper()
	c := record.BuilderConfig{ProducerID: 7, BaseSequence: sequence}
	s.requests <- &streamhousev1.ProduceStreamRequest{Id: uint64(sequence), Write: &streamhousev1.ProduceStreamRequest_RecordBatches{
		RecordBatches: &streamhousev1.ProduceRecordBatchesRequest{Topic: "t", RecordBatches: rawBatch(t, c, strings.Repeat("x", groupBytes*3/4))},
	}}
}

// end ends the stream and returns its results.
func (s *heldStream) end(t *testing.T) (results []StreamResult) {
	t.Helper()
	close(s.requests)
	require.NoError(t, <-s.ended)
	close(s.results)
	for r := range s.results {
		require.Equal(t, uint64(len(results)), r.ID)
		results = append(results, r)
	}
	return results
}

// Groups of an idempotent producer do not wait for each other.
func TestLaneHasGroupsUnderWayTogether(t *testing.T) {
	s := newHeldStream(t)
	const n = maxGroups + 3
	for i := range int32(n) {
		s.send(t, i)
	}
	var under []heldAppend
	for range maxGroups {
		under = append(under, <-s.replica.begun)
	}
	require.Empty(t, s.replica.begun, "as many as may be")
	for i := range n {
		under[i].answer <- heldAnswer{results: []shard.AppendResult{{BaseOffset: int64(i)}}}
		if len(under) < n {
			under = append(under, <-s.replica.begun)
		}
	}
	for i, r := range s.end(t) {
		require.NoError(t, r.Err)
		require.EqualValues(t, i, r.Batches[0].GetBaseOffset())
	}
	require.Empty(t, s.shards[0].appends, "nothing was tried again")
}

// What could not be stored is tried again in order, and nothing else is.
func TestLaneTriesAgainInOrder(t *testing.T) {
	stored := func(offset int64) heldAnswer { return heldAnswer{results: []shard.AppendResult{{BaseOffset: offset}}} }
	refused := func(reason Reason) heldAnswer { return heldAnswer{results: []shard.AppendResult{{Reason: reason}}} }
	failed := func(err error) heldAnswer { return heldAnswer{err: err} }
	for name, tt := range map[string]struct {
		answers []heldAnswer
		again   Reason   // what trying again is answered with
		want    []int32  // the sequences that are tried again
		reasons []Reason // of the results, in order
	}{
		"all behind the first": {
			answers: []heldAnswer{failed(&shard.NotLeaderError{}), refused(reasonUnknownProducer), refused(reasonOutOfOrder)},
			want:    []int32{0, 1, 2}, reasons: []Reason{reasonNone, reasonNone, reasonNone},
		},
		"not what was stored": {
			answers: []heldAnswer{stored(0), failed(shard.ErrUnknownOutcome), stored(2)},
			want:    []int32{1}, reasons: []Reason{reasonNone, reasonNone, reasonNone},
		},
		"refused when it is tried again": {
			answers: []heldAnswer{failed(&shard.NotLeaderError{}), stored(1), stored(2)},
			again:   reasonFenced,
			want:    []int32{0}, reasons: []Reason{reasonFenced, reasonNone, reasonNone},
		},
		"perhaps stored, and refused when it is tried again": {
			answers: []heldAnswer{failed(shard.ErrUnknownOutcome), stored(1), stored(2)},
			again:   reasonFenced,
			want:    []int32{0}, reasons: []Reason{reasonOutcomeUnknown, reasonNone, reasonNone},
		},
		"refused on its own account": {
			answers: []heldAnswer{refused(reasonOutOfOrder), refused(reasonOutOfOrder), stored(2)},
			reasons: []Reason{reasonOutOfOrder, reasonOutOfOrder, reasonNone},
		},
		"nothing to be gained": {
			answers: []heldAnswer{failed(shard.ErrLogFull), refused(reasonOutOfOrder), failed(shard.ErrLogFull)},
			reasons: []Reason{reasonLogFull, reasonOutOfOrder, reasonLogFull},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newHeldStream(t)
			topic, _ := s.meta.View().Topic("t")
			s.shards[0].reasons[topic.PartitionIDs[0]] = tt.again
			var under []heldAppend
			for i := range int32(3) {
				s.send(t, i)
				under = append(under, <-s.replica.begun)
			}
			for i := range under {
				under[i].answer <- tt.answers[i]
			}
			for i, r := range s.end(t) {
				if tt.reasons[i] == reasonNone {
					require.NoError(t, r.Err, "batch %d", i)
					continue
				}
				requireReason(t, tt.reasons[i], r.Err)
			}
			var again []int32
			for _, batches := range s.shards[0].appends {
				again = append(again, batches[0].Data.BaseSequence())
			}
			require.Equal(t, tt.want, again)
		})
	}
}

// What goes to another node waits for what is under way here.
func TestLaneForwardsBehindWhatIsUnderWay(t *testing.T) {
	s := newHeldStream(t)
	s.send(t, 0)
	first := <-s.replica.begun
	s.shards[0].set(func() { s.shards[0].leader = "n2/r" })
	s.send(t, 1)
	require.Never(t, func() bool { return s.peers["n2"].count("Append") > 0 }, 50*time.Millisecond, 10*time.Millisecond)
	first.answer <- heldAnswer{results: make([]shard.AppendResult, 1)}
	results := s.end(t)
	require.NoError(t, results[0].Err)
	require.NoError(t, results[1].Err)
	require.False(t, results[0].Batches[0].GetForwarded())
	require.True(t, results[1].Batches[0].GetForwarded())
	require.Equal(t, 1, s.peers["n2"].count("Append"))
}

// sequencedReplica takes batches in sequence only, and fails at random, before or behind storing.
type sequencedReplica struct {
	*fakeReplica
	rnd    *rand.Rand // guarded by fakeShard.mu
	stored map[uint64][]int32
}

func (r *sequencedReplica) BeginAppend(ctx context.Context, batches []shard.AppendBatch, _ bool) (func(context.Context) ([]shard.AppendResult, error), error) {
	results, err := r.Append(context.WithoutCancel(ctx), batches, false)
	return func(context.Context) ([]shard.AppendResult, error) { return results, err }, nil
}

func (r *sequencedReplica) Append(_ context.Context, batches []shard.AppendBatch, _ bool) ([]shard.AppendResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fate := r.rnd.IntN(10)
	if fate == 0 {
		return nil, &shard.NotLeaderError{}
	}
	results := make([]shard.AppendResult, len(batches))
	for i, b := range batches {
		log := r.stored[b.PartitionID]
		switch at := b.Data.BaseSequence(); {
		case int(at) > len(log):
			results[i].Reason = reasonOutOfOrder
		case int(at) < len(log):
			results[i] = shard.AppendResult{BaseOffset: int64(at), Duplicate: true}
		default:
			results[i].BaseOffset = int64(at)
			r.stored[b.PartitionID] = append(log, at)
		}
	}
	if fate == 1 {
		return nil, shard.ErrUnknownOutcome
	}
	return results, nil
}

// Whatever fails, each batch is stored once, in order, and told so.
func TestLaneStoresOnceInOrder(t *testing.T) {
	for seed := range uint64(5) {
		f := newFixture(t, true)
		topic := f.meta.createTopic(t, "t", 3, nil) // partitions 0 and 2 are in shard 0
		r := &sequencedReplica{f.shards[0].on("n1"), rand.New(rand.NewPCG(seed, 0)), make(map[uint64][]int32)}
		f.local.add(0, r)
		const n = 300
		s := &testStream{
			requests: make(chan *streamhousev1.ProduceStreamRequest, n), results: make(chan StreamResult, n), err: io.EOF,
			released: make(chan struct{}, n),
		}
		pick := rand.New(rand.NewPCG(seed, 1))
		var next [3]int32
		for i := range n {
			p := int32(2 * pick.IntN(2))
			c := record.BuilderConfig{ProducerID: 7, BaseSequence: next[p]}
			next[p]++
			s.requests <- &streamhousev1.ProduceStreamRequest{Id: uint64(i), Write: &streamhousev1.ProduceStreamRequest_RecordBatches{
				RecordBatches: &streamhousev1.ProduceRecordBatchesRequest{
					Topic: "t", Partition: p, RecordBatches: rawBatch(t, c, strings.Repeat("x", pick.IntN(groupBytes/2))),
				},
			}}
		}
		close(s.requests)
		require.NoError(t, f.ProduceStream(t.Context(), s))
		for i := range n {
			require.NoError(t, (<-s.results).Err, "seed %d, batch %d", seed, i)
		}
		for _, p := range []int32{0, 2} {
			require.Len(t, r.stored[topic.PartitionIDs[p]], int(next[p]), "seed %d", seed)
		}
	}
}
