package shard

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// logPerItem is how many points or refusals are in an item of a snapshot at most.
const logPerItem = 1 << 16

// savedLog is what a snapshot tells of the log of the replica that took it, so that this replica finds in its log after a
// restart what it found before. Entries up to the snapshot are not applied again, and do not say at which offsets their
// batches were stored.
type savedLog struct {
	replicaID string
	first     uint64             // nothing is known of entries before
	last      uint64             // entry of the snapshot
	points    map[uint64][]point // by partition
	rejected  []batchPlace       // as in local
}

// save copies nothing that is large: it shares what is only appended to.
func (l *local) save(replicaID string, last uint64) *savedLog {
	saved := &savedLog{
		replicaID: replicaID, first: l.trimmed, last: last, points: make(map[uint64][]point, len(l.index)), rejected: slices.Clip(l.rejected),
	}
	for id, x := range l.index {
		saved.points[id] = slices.Clip(x.points)
	}
	return saved
}

// resume goes on with what a snapshot of this replica told of its log.
func (l *local) resume(saved *savedLog) {
	l.trimmed, l.rejected = saved.first, saved.rejected
	for id, points := range saved.points {
		// The next batch is a point: the log may be cut behind the last one here.
		l.index[id] = &pointIndex{points: points, bytes: pointBytes}
	}
}

func (s *savedLog) write(fw *frameWriter) {
	fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Log{Log: &metav1.ShardLog{
		ReplicaId: s.replicaID, FirstIndex: s.first, LastIndex: s.last,
	}}})
	for _, id := range slices.Sorted(maps.Keys(s.points)) {
		for points := range slices.Chunk(s.points[id], logPerItem) {
			item := &metav1.ShardLogPoints{PartitionId: id}
			for _, p := range points {
				item.BaseOffsets, item.Indexes = append(item.BaseOffsets, p.base), append(item.Indexes, p.index)
			}
			fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_LogPoints{LogPoints: item}})
		}
	}
	for rejected := range slices.Chunk(s.rejected, logPerItem) {
		item := &metav1.ShardLogRefusals{}
		for _, r := range rejected {
			item.Indexes, item.Places = append(item.Indexes, r.index), append(item.Places, uint32(r.place))
		}
		fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_LogRefusals{LogRefusals: item}})
	}
	fw.end()
}

// addLog adds an item behind the first end.
func (rs *restorer) addLog(item *metav1.ShardSnapshotItem) error {
	if log := item.GetLog(); log != nil {
		if rs.log != nil || log.GetReplicaId() == "" {
			return errors.New("the log has no replica, or is there twice")
		}
		rs.log = &savedLog{
			replicaID: log.GetReplicaId(), first: log.GetFirstIndex(), last: log.GetLastIndex(),
			points: make(map[uint64][]point),
		}
		return nil
	}
	if rs.log == nil {
		return errors.New("unknown item behind the end")
	}
	switch it := item.GetItem().(type) {
	case *metav1.ShardSnapshotItem_LogPoints:
		return rs.addPoints(it.LogPoints)
	case *metav1.ShardSnapshotItem_LogRefusals:
		return rs.addRefusals(it.LogRefusals)
	case *metav1.ShardSnapshotItem_End:
		return rs.end(it.End)
	default:
		return errors.New("unknown item behind the end")
	}
}

func (rs *restorer) addPoints(item *metav1.ShardLogPoints) error {
	id := item.GetPartitionId()
	p := rs.state.partitions[id]
	if p == nil || len(item.GetBaseOffsets()) != len(item.GetIndexes()) {
		return fmt.Errorf("points of partition id %d do not fit", id)
	}
	last := point{base: -1}
	if k := len(rs.log.points[id]); k > 0 {
		last = rs.log.points[id][k-1]
	}
	for i, base := range item.GetBaseOffsets() {
		at := point{base: base, index: item.GetIndexes()[i]}
		if at.base <= last.base || at.index <= last.index || at.index < rs.log.first || at.index > rs.log.last || at.base >= p.next {
			return fmt.Errorf("point %d of partition id %d, offset %d at index %d, does not fit", i, id, at.base, at.index)
		}
		rs.log.points[id] = append(rs.log.points[id], at)
		last = at
	}
	return nil
}

func (rs *restorer) addRefusals(item *metav1.ShardLogRefusals) error {
	if len(item.GetIndexes()) != len(item.GetPlaces()) {
		return errors.New("refusals do not fit")
	}
	for i, index := range item.GetIndexes() {
		at := batchPlace{index, int(item.GetPlaces()[i])}
		if k := len(rs.log.rejected); k > 0 && compareBatchPlaces(rs.log.rejected[k-1], at) >= 0 {
			return fmt.Errorf("the refusal of batch %d of entry %d is not in order", at.place, at.index)
		}
		rs.log.rejected = append(rs.log.rejected, at)
	}
	return nil
}

func compareBatchPlaces(a, b batchPlace) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.place, b.place))
}
