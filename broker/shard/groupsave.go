package shard

import (
	"bytes"
	"context"
	"math"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// runGroupSaves puts the committed offsets into the object store, at most once an upload interval and only when they
// have changed, while this replica leads.
func (s *Shard) runGroupSaves(ctx context.Context) {
	if s.cfg.Groups == nil {
		return
	}
	tick := time.NewTicker(max(s.cfg.UploadInterval, uploadTick))
	defer tick.Stop()
	var saved uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		data, index, changed, err := s.groupsData(saved)
		if err == nil && !changed {
			continue
		}
		if err == nil {
			err = s.cfg.Groups.Save(ctx, s.cfg.ClusterID, s.cfg.Shard, s.cfg.Metadata.View().RecoveryID(), index, data)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("committed offsets of groups are not in the object store yet", "error", err)
			}
			continue
		}
		saved = index
	}
}

// neverSaved is an index that no state of groups has.
const neverSaved = math.MaxUint64

// groupsData returns the committed offsets, in the format of a snapshot without anything else, and the index that they
// are of. Nothing has changed where they are those of the index that was saved last.
func (s *Shard) groupsData(saved uint64) (data []byte, index uint64, changed bool, err error) {
	s.fsm.mu.RLock()
	st := s.fsm.state
	index = st.groupsIndex
	if index == saved {
		s.fsm.mu.RUnlock()
		return nil, 0, false, nil
	}
	sn := &snapshot{header: &metav1.ShardSnapshotHeader{
		Version: snapshotVersion, Shard: s.cfg.Shard, TimeMs: st.timeMs, RecoveryId: st.recoveryID, GroupsIndex: index,
	}}
	bare := make(map[string]*consumerGroup, len(st.groups))
	for name, g := range st.groups {
		bare[name] = &consumerGroup{offsets: g.offsets}
	}
	sn.groups = groupItems(bare)
	s.fsm.mu.RUnlock()
	var b bytes.Buffer
	if err := sn.write(&b); err != nil {
		return nil, 0, false, err
	}
	return b.Bytes(), index, true, nil
}
