package broker

import (
	"context"
	"io"
	"strings"
	"testing"

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

func (r *heldReplica) BeginAppend(batches []shard.AppendBatch, _ bool) (func(context.Context) ([]shard.AppendResult, error), error) {
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
