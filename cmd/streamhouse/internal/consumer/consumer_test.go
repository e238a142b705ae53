package consumer_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client/clienttest"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/consumer"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/producer"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start returns a cluster of two nodes with n records in a topic.
func start(t *testing.T, n int) (*clienttest.Cluster, [2]*clienttest.Node, *remote.Pool) {
	t.Helper()
	c := clienttest.New()
	nodes := [2]*clienttest.Node{c.Start(t), c.Start(t)}
	pool, err := remote.Open(nodes[0].Addr() + "," + nodes[1].Addr())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	s := streamhousev1.NewStreamHouseServiceClient(pool.Node().Conn())
	_, err = s.CreateTopic(t.Context(), &streamhousev1.CreateTopicRequest{Name: "t", Partitions: 1})
	require.NoError(t, err)
	p, err := producer.Open(t.Context(), producer.Config{Pool: pool, Topic: "t", Timeout: time.Minute})
	require.NoError(t, err)
	b := producer.Batch{}
	for i := range n {
		b.Records = append(b.Records, &streamhousev1.Record{Value: []byte(strconv.Itoa(i))})
	}
	require.NoError(t, p.Send(t.Context(), b))
	p.Finish()
	require.NoError(t, p.Run(t.Context()))
	return c, nodes, pool
}

// reader collects what is delivered.
type reader struct {
	offsets []int64
	warned  []string
}

func (r *reader) config(pool *remote.Pool, offset, end int64) consumer.Config {
	return consumer.Config{
		Pool: pool, Topic: "t", Offset: offset, End: end, Timeout: time.Minute, SkipGone: true,
		Limit: func() int32 { return 0 },
		Deliver: func(rs []*streamhousev1.ConsumedRecord) error {
			for _, rec := range rs {
				r.offsets = append(r.offsets, rec.GetOffset())
			}
			return nil
		},
		Warn: func(s string) { r.warned = append(r.warned, s) },
	}
}

func offsets(from, to int64) []int64 {
	var out []int64
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

func TestReadToTheEnd(t *testing.T) {
	_, _, pool := start(t, 9)
	var r reader
	require.NoError(t, consumer.Read(t.Context(), r.config(pool, 2, 8)))
	require.Equal(t, offsets(2, 8), r.offsets)
}

func TestReadThroughFaults(t *testing.T) {
	_, nodes, pool := start(t, 30)
	var calls atomic.Int32
	for _, n := range nodes {
		n.Before = func(string) error {
			switch calls.Add(1) % 4 {
			case 1:
				return clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
			case 2:
				return clienttest.Break()
			default:
				return nil
			}
		}
	}
	var r reader
	require.NoError(t, consumer.Read(t.Context(), r.config(pool, 0, 30)))
	require.Equal(t, offsets(0, 30), r.offsets, "each once, in order")
}

func TestReadSkipsWhatIsGone(t *testing.T) {
	c, _, pool := start(t, 9)
	c.Trim("t", 0, 5)
	var r reader
	require.NoError(t, consumer.Read(t.Context(), r.config(pool, 1, 9)))
	require.Equal(t, offsets(5, 9), r.offsets)
	require.Equal(t, []string{"partition 0: records 1 to 4 are gone, reading on at 5"}, r.warned)

	cfg := r.config(pool, 1, 9)
	cfg.SkipGone = false
	require.EqualError(t, consumer.Read(t.Context(), cfg), "offset 1 is out of range (OFFSET_OUT_OF_RANGE)")
	require.EqualError(t, consumer.Read(t.Context(), r.config(pool, 99, consumer.Forever)), "offset 99 is out of range (OFFSET_OUT_OF_RANGE)")
}

func TestReadFollows(t *testing.T) {
	_, _, pool := start(t, 3)
	var r reader
	enough := errors.New("enough")
	cfg := r.config(pool, 0, consumer.Forever)
	deliver, empty := cfg.Deliver, 0
	cfg.Deliver = func(rs []*streamhousev1.ConsumedRecord) error {
		if len(rs) == 0 {
			if empty++; empty == 3 {
				return enough
			}
		}
		return deliver(rs)
	}
	require.ErrorIs(t, consumer.Read(t.Context(), cfg), enough)
	require.Equal(t, offsets(0, 3), r.offsets)
}

func TestReadToAnUnknownEnd(t *testing.T) {
	_, nodes, pool := start(t, 5)
	var r reader
	require.NoError(t, consumer.Read(t.Context(), r.config(pool, 1, consumer.WhereItEnds)))
	require.Equal(t, offsets(1, 5), r.offsets)

	// A node that has lost its leader gives what it has, and then says so.
	var calls atomic.Int32
	for _, n := range nodes {
		n.Before = func(string) error {
			if calls.Add(1) > 2 {
				return clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
			}
			return nil
		}
	}
	var cut reader
	cfg := cut.config(pool, 0, consumer.WhereItEnds)
	cfg.Timeout = 100 * time.Millisecond
	require.EqualError(t, consumer.Read(t.Context(), cfg), "no leader (NO_LEADER)")
	require.Equal(t, offsets(0, 4), cut.offsets)
}

func TestReadEnds(t *testing.T) {
	_, nodes, pool := start(t, 3)
	var r reader
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, consumer.Read(ctx, r.config(pool, 0, consumer.Forever)), context.Canceled)

	for _, n := range nodes {
		n.Kill()
	}
	cfg := r.config(pool, 0, consumer.Forever)
	cfg.Timeout = 200 * time.Millisecond
	require.Error(t, consumer.Read(t.Context(), cfg))
}

func TestCommitter(t *testing.T) {
	c, _, pool := start(t, 3)
	cm := consumer.Committer{Pool: pool, Topic: "t", Group: "g"}
	require.NoError(t, cm.Commit(t.Context()), "nothing to commit")
	cm.Note(0, 2)
	require.NoError(t, cm.CommitSome(t.Context()))
	require.EqualValues(t, 2, c.Offset("g", "t", 0))
	cm.Note(0, 3)
	require.NoError(t, cm.CommitSome(t.Context()))
	require.EqualValues(t, 2, c.Offset("g", "t", 0), "the last commit was just now")
	require.NoError(t, cm.Commit(t.Context()))
	require.EqualValues(t, 3, c.Offset("g", "t", 0))

	none := consumer.Committer{Pool: pool, Topic: "t"}
	none.Note(0, 1)
	require.NoError(t, none.Commit(t.Context()), "without a group there is nothing to commit")
}
