package shard

import (
	"bytes"
	"context"
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
		if s.groupsIndex() == saved {
			continue
		}
		index, err := s.saveGroups(ctx, s.cfg.Metadata.View().RecoveryID())
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("committed offsets of groups are not in the object store yet", "error", err)
			}
			continue
		}
		saved = index
	}
}

// groupsIndex returns the index of the entry that changed the committed offsets last.
func (s *Shard) groupsIndex() uint64 {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.state.groupsIndex
}

// saveGroups puts the committed offsets into the object store, and returns the index that they are of.
func (s *Shard) saveGroups(ctx context.Context, recoveryID string) (index uint64, err error) {
	data, index, err := s.groupsData()
	if err != nil {
		return 0, err
	}
	return index, s.cfg.Groups.Save(ctx, s.cfg.ClusterID, s.cfg.Shard, recoveryID, index, data)
}

// groupsData returns the committed offsets, in the format of a snapshot without anything else, and the index that they
// are of.
func (s *Shard) groupsData() (data []byte, index uint64, err error) {
	s.fsm.mu.RLock()
	st := s.fsm.state
	index = st.groupsIndex
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
		return nil, 0, err
	}
	return b.Bytes(), index, nil
}
