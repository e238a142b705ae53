package broker

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

func values(records []*streamhousev1.ConsumedRecord) string {
	var out []string
	for _, r := range records {
		out = append(out, string(r.GetValue()))
	}
	return strings.Join(out, " ")
}

func consumeFrom(offset int64) *streamhousev1.ConsumeRequest {
	return &streamhousev1.ConsumeRequest{Topic: "t", Offset: offset}
}

// TestConsumeChoosesItsSource puts records 0-3 into the object store and leaves 4-7 on the replicas.
func TestConsumeChoosesItsSource(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		name := "with a replica"
		if !replicas {
			name = "without a replica"
		}
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, replicas)
			topic := f.meta.createTopic(t, "t", 1, nil)
			f.produce(t, 0, "0", "1")
			f.produce(t, 0, "2", "3")
			f.produce(t, 0, "4", "5")
			f.produce(t, 0, "6", "7")
			f.upload(t, topic.PartitionIDs[0], 4)
			for offset, want := range []string{"0 1 2 3", "1 2 3", "2 3", "3", "4 5 6 7", "5 6 7", "6 7", "7", ""} {
				f.history.reads = 0
				res, err := f.Consume(t.Context(), consumeFrom(int64(offset)))
				require.NoError(t, err)
				require.Equal(t, want, values(res.GetRecords()), "from %d", offset)
				require.Equal(t, int64(8), res.GetHighWatermark())
				require.Equal(t, int64(0), res.GetLogStartOffset())
				require.Equal(t, offset < 4, f.history.reads == 1, "from %d", offset)
				if want != "" {
					require.Equal(t, int64(offset), res.GetRecords()[0].GetOffset())
				}
				require.Equal(t, int64(offset+len(res.GetRecords())), res.GetNextOffset())
			}
			_, err := f.Consume(t.Context(), consumeFrom(9))
			e := requireReason(t, reasonOffsetOutOfRange, err)
			require.Equal(t, map[string]string{"log_start_offset": "0", "high_watermark": "8"}, e)
		})
	}
}

func TestConsumeBounds(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	f.produce(t, 0, strings.Repeat("a", 100), strings.Repeat("b", 100), strings.Repeat("c", 100))
	tests := []struct {
		maxBytes, maxRecords int32
		want                 int
	}{
		{0, 0, 3}, {1, 0, 1}, {250, 0, 2}, {0, 2, 2}, {1, 3, 1}, {0, 1, 1},
	}
	for _, tt := range tests {
		res, err := f.Consume(t.Context(), &streamhousev1.ConsumeRequest{Topic: "t", MaxBytes: tt.maxBytes, MaxRecords: tt.maxRecords})
		require.NoError(t, err)
		require.Len(t, res.GetRecords(), tt.want)
		require.Equal(t, int64(tt.want), res.GetNextOffset())
	}
	for field, req := range map[string]*streamhousev1.ConsumeRequest{
		"offset":      {Topic: "t", Offset: -1},
		"max_bytes":   {Topic: "t", MaxBytes: -1},
		"max_records": {Topic: "t", MaxRecords: -1},
		"max_wait":    {Topic: "t", MaxWait: durationpb.New(61 * time.Second)},
		"group":       {Topic: "t", Group: "a b"},
		"topic":       {Topic: "a b"},
		"partition":   {Topic: "t", Partition: -1},
	} {
		_, err := f.Consume(t.Context(), req)
		require.Equal(t, field, requireReason(t, reasonInvalidField, err)["field"])
	}
}

func TestConsumeRecordBatches(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	f.produce(t, 0, "0", "1")
	f.produce(t, 0, "2", "3")
	res, err := f.ConsumeRecordBatches(t.Context(), &streamhousev1.ConsumeRecordBatchesRequest{Topic: "t", Offset: 1})
	require.NoError(t, err)
	batches, err := record.Split(res.GetRecordBatches())
	require.NoError(t, err)
	require.Len(t, batches, 2)
	require.Equal(t, int64(0), batches[0].BaseOffset())
	require.Equal(t, int64(4), res.GetNextOffset())
	require.Equal(t, int64(4), res.GetHighWatermark())
}

func TestConsumeLongPoll(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t, replicas)
			f.meta.createTopic(t, "t", 1, nil)
			req := &streamhousev1.ConsumeRequest{Topic: "t", MaxWait: durationpb.New(20 * time.Second)}
			began := time.Now()
			res, err := f.Consume(t.Context(), req)
			require.NoError(t, err)
			require.Empty(t, res.GetRecords())
			require.InDelta(t, 20, time.Since(began).Seconds(), 1)

			began = time.Now()
			time.AfterFunc(7*time.Second, func() { f.produce(t, 0, "x") })
			res, err = f.Consume(t.Context(), req)
			require.NoError(t, err)
			require.Equal(t, "x", values(res.GetRecords()))
			require.InDelta(t, 7, time.Since(began).Seconds(), 1)
		})
	}
}

func TestConsumePollsEndWithTheNode(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t, replicas)
			f.meta.createTopic(t, "t", 1, nil)
			f.produce(t, 0, "x")
			began := time.Now()
			time.AfterFunc(3*time.Second, f.EndPolls)
			_, err := f.Consume(t.Context(), &streamhousev1.ConsumeRequest{Topic: "t", Offset: 1, MaxWait: durationpb.New(time.Minute)})
			if err != nil {
				requireReason(t, reasonShuttingDown, err)
			}
			require.InDelta(t, 3, time.Since(began).Seconds(), 0.5)
			f.EndPolls()
			err = f.ConsumeStream(t.Context(), &streamhousev1.ConsumeStreamRequest{Topic: "t", Follow: true}, func(*streamhousev1.ConsumeStreamResponse) error { return nil })
			requireReason(t, reasonShuttingDown, err)
		})
	}
}

// ack-not-readable: what was acknowledged is read through a node whose replica lags behind the leader.
func TestAckNotReadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		f.meta.createTopic(t, "t", 2, nil)
		f.produce(t, 1, "0")
		f.produce(t, 1, "1")
		s := f.shards[1] // led by n2
		s.applied["n1"] = 1

		time.AfterFunc(applyPatience/2, func() { s.set(func() { delete(s.applied, "n1") }) })
		res, err := f.Consume(t.Context(), &streamhousev1.ConsumeRequest{Topic: "t", Partition: 1, Offset: 1})
		require.NoError(t, err)
		require.Equal(t, "1", values(res.GetRecords()))
		require.Equal(t, 0, f.peers["n2"].count("Fetch"), "it waited for its own replica")

		s.set(func() { s.applied["n1"] = 1 })
		res, err = f.Consume(t.Context(), &streamhousev1.ConsumeRequest{Topic: "t", Partition: 1, Offset: 1})
		require.NoError(t, err)
		require.Equal(t, "1", values(res.GetRecords()))
		require.Equal(t, 1, f.peers["n2"].count("Fetch"), "a replica that does not catch up is passed by")
		require.EqualValues(t, 2, res.GetHighWatermark())

		res, err = f.Consume(t.Context(), &streamhousev1.ConsumeRequest{Topic: "t", Partition: 1})
		require.NoError(t, err)
		require.Equal(t, 1, f.peers["n2"].count("Fetch"), "it is read here")
		require.EqualValues(t, 2, res.GetHighWatermark(), "it does not go back where the replica is read again")

		time.AfterFunc(time.Second, func() { f.produce(t, 1, "2") })
		began := time.Now()
		res, err = f.Consume(t.Context(), &streamhousev1.ConsumeRequest{
			Topic: "t", Partition: 1, Offset: 2, MaxWait: durationpb.New(time.Minute),
		})
		require.NoError(t, err)
		require.Equal(t, "2", values(res.GetRecords()))
		require.Equal(t, time.Second, time.Since(began), "a long poll waits at the leader")
	})
}

// TestConsumeWithoutLeader reads what is there, and says UNAVAILABLE past it when no leader comes in time.
func TestConsumeWithoutLeader(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t, replicas)
			topic := f.meta.createTopic(t, "t", 1, nil)
			f.produce(t, 0, "0", "1")
			f.produce(t, 0, "2")
			f.upload(t, topic.PartitionIDs[0], 2)
			leader := f.shards[0].leader
			f.shards[0].set(func() { f.shards[0].leader = "" })
			for offset, want := range []string{"0 1", "1", "2"} {
				res, err := f.Consume(t.Context(), consumeFrom(int64(offset)))
				require.NoError(t, err)
				require.Equal(t, want, values(res.GetRecords()))
			}
			for _, offset := range []int64{3, 4} {
				began := time.Now()
				_, err := f.Consume(t.Context(), consumeFrom(offset))
				requireReason(t, reasonNoLeader, err)
				require.Equal(t, leaderPatience, time.Since(began))

				bounded, cancel := context.WithTimeout(t.Context(), 12*time.Second)
				began = time.Now()
				_, err = f.Consume(bounded, consumeFrom(offset))
				cancel()
				requireReason(t, reasonNoLeader, err)
				require.Equal(t, 12*time.Second, time.Since(began))
			}
			var sent []string
			err := f.ConsumeStream(t.Context(), &streamhousev1.ConsumeStreamRequest{Topic: "t"}, func(m *streamhousev1.ConsumeStreamResponse) error {
				sent = append(sent, values(m.GetRecords()))
				return nil
			})
			requireReason(t, reasonNoLeader, err)
			require.Equal(t, []string{"0 1", "2"}, sent)

			// A leader that comes only once the stream has begun says that there is no more.
			sent = nil
			time.AfterFunc(leaderPatience+time.Second, func() { f.shards[0].set(func() { f.shards[0].leader = leader }) })
			require.NoError(t, f.ConsumeStream(t.Context(), &streamhousev1.ConsumeStreamRequest{Topic: "t"}, func(m *streamhousev1.ConsumeStreamResponse) error {
				sent = append(sent, values(m.GetRecords()))
				if len(sent) > 2 {
					f.produce(t, 0, "later")
				}
				return nil
			}))
			require.Equal(t, []string{"0 1", "2"}, sent)
			f.shards[0].set(func() { f.shards[0].leader = "" })

			time.AfterFunc(7*time.Second, func() { f.shards[0].set(func() { f.shards[0].leader = leader }) })
			bounded, cancel := context.WithTimeout(t.Context(), 12*time.Second)
			defer cancel()
			res, err := f.Consume(bounded, consumeFrom(3))
			require.NoError(t, err, "a read waits for the election")
			require.Empty(t, res.GetRecords())
		})
	}
}

// TestConsumeWhileTheReplicaComes begins to read on a node that has no replica yet, as right after a restart, and leads
// the shard a little later.
func TestConsumeWhileTheReplicaComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, false)
		f.meta.createTopic(t, "t", 1, nil)
		f.produce(t, 0, "0")
		shard := f.shards[0]
		shard.set(func() { shard.leader = "" })
		time.AfterFunc(time.Second, func() {
			f.local.add(0, shard.on("n1"))
			shard.set(func() { shard.leader = "n1/r" })
		})
		began := time.Now()
		res, err := f.Consume(t.Context(), consumeFrom(1))
		require.NoError(t, err)
		require.Empty(t, res.GetRecords())
		require.Less(t, time.Since(began), 2*time.Second)
	})
}

func TestConsumeBelowLogStart(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 1, nil)
	f.produce(t, 0, "0", "1")
	f.produce(t, 0, "2")
	id := topic.PartitionIDs[0]
	f.upload(t, id, 2)
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_TrimPartition{TrimPartition: &metav1.TrimPartition{PartitionId: id, LogStartOffset: 2}}})
	_, err := f.Consume(t.Context(), consumeFrom(1))
	e := requireReason(t, reasonOffsetOutOfRange, err)
	require.Equal(t, map[string]string{"log_start_offset": "2", "high_watermark": "3"}, e)
}

// TestConsumeWithOldManifest reads what was uploaded and cut since this node's view.
func TestConsumeWithOldManifest(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		f := newFixture(t, replicas)
		topic := f.meta.createTopic(t, "t", 1, nil)
		f.produce(t, 0, "0", "1")
		f.meta.lag = true
		f.upload(t, topic.PartitionIDs[0], 2)
		res, err := f.Consume(t.Context(), consumeFrom(0))
		require.NoError(t, err)
		require.Equal(t, "0 1", values(res.GetRecords()))

		f.meta.down = errUnreachable
		f.history.errs["one"] = object.ErrUnavailable
		_, err = f.Consume(t.Context(), consumeFrom(0))
		requireReason(t, reasonStoreUnavailable, err)
	}
}

func TestConsumeBadObjects(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 1, nil)
	f.produce(t, 0, "0", "1")
	f.upload(t, topic.PartitionIDs[0], 2)
	for _, bad := range []error{object.ErrNotFound, &segment.CorruptError{Object: "one"}} {
		f.history.errs["one"] = bad
		_, err := f.Consume(t.Context(), consumeFrom(0))
		require.Equal(t, "one", requireReason(t, reasonCorruptData, err)["object"])
	}
}

func TestConsumeStream(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	f.produce(t, 0, "0", "1", "2")
	f.produce(t, 0, "3")
	collect := func(req *streamhousev1.ConsumeStreamRequest) string {
		var got []*streamhousev1.ConsumedRecord
		require.NoError(t, f.ConsumeStream(t.Context(), req, func(m *streamhousev1.ConsumeStreamResponse) error {
			got = append(got, m.GetRecords()...)
			f.produce(t, 0, "later")
			return nil
		}))
		return values(got)
	}
	require.Equal(t, "0 1 2 3", collect(&streamhousev1.ConsumeStreamRequest{Topic: "t", MaxBytes: 1}))
	require.Equal(t, "1 2", collect(&streamhousev1.ConsumeStreamRequest{Topic: "t", Offset: 1, MaxRecords: 2, Follow: true}))
	require.Empty(t, collect(&streamhousev1.ConsumeStreamRequest{Topic: "t", Offset: f.shards[0].on("n1").HighWatermark(f.id(t))}))

	fails := func(*streamhousev1.ConsumeStreamResponse) error { return errUnreachable }
	require.ErrorIs(t, f.ConsumeStream(t.Context(), &streamhousev1.ConsumeStreamRequest{Topic: "t", Follow: true}, fails), errUnreachable)
	requireReason(t, reasonInvalidField, f.ConsumeStream(t.Context(), &streamhousev1.ConsumeStreamRequest{Topic: "t", MaxRecords: -1}, fails))
}

// id returns the id of partition 0 of topic "t".
func (f *fixture) id(t *testing.T) uint64 {
	t.Helper()
	topic, ok := f.meta.View().Topic("t")
	require.True(t, ok)
	return topic.PartitionIDs[0]
}

func TestConsumeStreamEndsWithItsTopic(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 1, nil)
	f.produce(t, 0, "0")
	err := f.ConsumeStream(t.Context(), &streamhousev1.ConsumeStreamRequest{Topic: "t", Follow: true}, func(*streamhousev1.ConsumeStreamResponse) error {
		f.meta.must(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t", Uuid: topic.UUID[:], TimeMs: 9}}})
		return nil
	})
	requireReason(t, reasonTopicNotFound, err)
}

func TestListOffsets(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		f := newFixture(t, replicas)
		topic := f.meta.createTopic(t, "t", 2, nil)
		f.produce(t, 0, "0", "1", "2") // at 1000, 1001, 1002
		f.upload(t, topic.PartitionIDs[0], 3)
		late := int64(5000)
		zero := int32(0)
		_, err := f.Produce(t.Context(), &streamhousev1.ProduceRequest{Topic: "t", Partition: &zero, Record: &streamhousev1.Record{TimestampMs: &late}})
		require.NoError(t, err)
		list := func(req *streamhousev1.ListOffsetsRequest) *streamhousev1.ListedOffset {
			req.Topic, req.Partitions = "t", []int32{0}
			res, err := f.ListOffsets(t.Context(), req)
			require.NoError(t, err)
			require.Len(t, res.GetOffsets(), 1)
			return res.GetOffsets()[0]
		}
		at := func(ms int64) (int64, int64) {
			o := list(&streamhousev1.ListOffsetsRequest{Position: &streamhousev1.ListOffsetsRequest_TimestampMs{TimestampMs: ms}})
			return o.GetOffset(), o.GetTimestampMs()
		}
		require.Equal(t, int64(0), list(&streamhousev1.ListOffsetsRequest{Position: &streamhousev1.ListOffsetsRequest_Earliest{Earliest: true}}).GetOffset())
		require.Equal(t, int64(4), list(&streamhousev1.ListOffsetsRequest{Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true}}).GetOffset())
		for _, tt := range []struct{ ms, offset, foundMs int64 }{
			{0, 0, 1000}, {1000, 0, 1000}, {1002, 2, 1002}, {1003, 3, 5000}, {5000, 3, 5000}, {5001, 4, -1},
		} {
			offset, foundMs := at(tt.ms)
			require.Equal(t, tt.offset, offset, "at %d", tt.ms)
			require.Equal(t, tt.foundMs, foundMs, "at %d", tt.ms)
		}
		f.meta.must(t, &metav1.Command{Command: &metav1.Command_TrimPartition{TrimPartition: &metav1.TrimPartition{PartitionId: topic.PartitionIDs[0], LogStartOffset: 1}}})
		offset, _ := at(0)
		require.Equal(t, int64(1), offset, "the log start is respected inside of a segment")

		res, err := f.ListOffsets(t.Context(), &streamhousev1.ListOffsetsRequest{Topic: "t", Position: &streamhousev1.ListOffsetsRequest_Latest{}})
		require.NoError(t, err)
		require.Len(t, res.GetOffsets(), 2)
		_, err = f.ListOffsets(t.Context(), &streamhousev1.ListOffsetsRequest{Topic: "t"})
		requireReason(t, reasonInvalidField, err)
		_, err = f.ListOffsets(t.Context(), &streamhousev1.ListOffsetsRequest{Topic: "t", Partitions: []int32{7}, Position: &streamhousev1.ListOffsetsRequest_Latest{}})
		requireReason(t, reasonPartitionNotFound, err)
	}
}

// TestHighWatermarkThatWasListed asks for the end of a log through a node whose replica lags behind the leader, and then
// reads there.
func TestHighWatermarkThatWasListed(t *testing.T) {
	for name, req := range map[string]*streamhousev1.ListOffsetsRequest{
		"latest":  {Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true}},
		"by time": {Position: &streamhousev1.ListOffsetsRequest_TimestampMs{TimestampMs: math.MaxInt64}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, true)
			f.meta.createTopic(t, "t", 2, nil)
			f.produce(t, 1, "0")
			f.produce(t, 1, "1")
			s := f.shards[1] // led by n2
			s.applied["n1"] = 1
			req.Topic, req.Partitions = "t", []int32{1}
			listed, err := f.ListOffsets(t.Context(), req)
			require.NoError(t, err)
			require.EqualValues(t, 2, listed.GetOffsets()[0].GetOffset())
			res, err := f.Consume(t.Context(), &streamhousev1.ConsumeRequest{Topic: "t", Partition: 1})
			require.NoError(t, err)
			require.Equal(t, "0", values(res.GetRecords()))
			require.EqualValues(t, 2, res.GetHighWatermark(), "it does not go back behind what was listed")
		})
	}
}

func TestGroupOffsets(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		f := newFixture(t, replicas)
		f.meta.createTopic(t, "t", 2, nil)
		f.meta.createTopic(t, "other", 1, nil)
		f.produce(t, 0, "0", "1")
		commit := func(o *streamhousev1.CommittedOffset) error {
			_, err := f.CommitOffset(t.Context(), &streamhousev1.CommitOffsetRequest{Group: "g", Topic: "t", Offsets: []*streamhousev1.CommittedOffset{o}})
			return err
		}
		require.NoError(t, commit(&streamhousev1.CommittedOffset{Partition: 0, Offset: 2, Metadata: "m"}))
		res, err := f.GetOffset(t.Context(), &streamhousev1.GetOffsetRequest{Group: "g", Topic: "t"})
		require.NoError(t, err)
		require.Len(t, res.GetOffsets(), 1)
		require.Equal(t, int64(2), res.GetOffsets()[0].GetOffset())
		require.Equal(t, "m", res.GetOffsets()[0].GetMetadata())
		for _, req := range []*streamhousev1.GetOffsetRequest{
			{Group: "g", Topic: "t", Partitions: []int32{1}}, {Group: "g", Topic: "other"}, {Group: "h", Topic: "t"},
		} {
			res, err := f.GetOffset(t.Context(), req)
			require.NoError(t, err)
			require.Empty(t, res.GetOffsets())
		}
		e := requireReason(t, reasonOffsetOutOfRange, commit(&streamhousev1.CommittedOffset{Partition: 0, Offset: 3}))
		require.Equal(t, "2", e["high_watermark"])
		requireReason(t, reasonInvalidField, commit(&streamhousev1.CommittedOffset{Partition: 0, Offset: -1}))
		requireReason(t, reasonInvalidField, commit(&streamhousev1.CommittedOffset{Metadata: strings.Repeat("x", 4097)}))
		requireReason(t, reasonPartitionNotFound, commit(&streamhousev1.CommittedOffset{Partition: 5}))
		_, err = f.CommitOffset(t.Context(), &streamhousev1.CommitOffsetRequest{Group: "a b", Topic: "t"})
		requireReason(t, reasonInvalidField, err)
		_, err = f.CommitOffset(t.Context(), &streamhousev1.CommitOffsetRequest{Group: "g", Topic: "t"})
		requireReason(t, reasonInvalidField, err)
	}
}

// Who commits, and which of its commits it is, reaches the leader, here or on another node.
func TestCommitterReachesTheLeader(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		f := newFixture(t, replicas)
		f.meta.createTopic(t, "t", 1, nil)
		_, err := f.CommitOffset(t.Context(), &streamhousev1.CommitOffsetRequest{
			Group: "g", Topic: "t", Offsets: []*streamhousev1.CommittedOffset{{}}, MemberId: "m", MemberEpoch: 3, CommitSequence: 7,
		})
		require.NoError(t, err)
		number, err := f.groupShard(t.Context(), "g")
		require.NoError(t, err)
		require.Equal(t, shard.Committer{MemberID: "m", Epoch: 3, Sequence: 7}, f.shards[number].committer)
	}
}

func TestConsumeStopsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		f.meta.createTopic(t, "t", 1, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := f.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "t", MaxWait: durationpb.New(time.Minute)})
		require.True(t, errors.Is(err, context.DeadlineExceeded) || AsError(err).Reason == reasonNoLeader, "%v", err)
		_, err = f.Consume(t.Context(), consumeFrom(math.MaxInt64))
		requireReason(t, reasonOffsetOutOfRange, err)
	})
}

// A reader that means a partition of a topic which had the name before does not get another one's records, nor does a
// commit go there.
func TestAnotherPartitionOfTheName(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	f.produce(t, 0, "0")
	id := f.id(t)
	for expected, ok := range map[uint64]bool{0: true, id: true, id + 1: false} {
		_, err := f.ConsumeRecordBatches(t.Context(), &streamhousev1.ConsumeRecordBatchesRequest{Topic: "t", PartitionId: expected})
		_, commitErr := f.CommitOffset(t.Context(), &streamhousev1.CommitOffsetRequest{
			Group: "g", Topic: "t", Offsets: []*streamhousev1.CommittedOffset{{Offset: 1, PartitionId: expected}},
		})
		if ok {
			require.NoError(t, err)
			require.NoError(t, commitErr)
			continue
		}
		requireReason(t, reasonTopicNotFound, err)
		requireReason(t, reasonTopicNotFound, commitErr)
	}
}
