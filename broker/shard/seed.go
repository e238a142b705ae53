package shard

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
)

// After a recovery from the object store the metadata has the manifest, and every shard begins with an empty log. Its
// first leader logs where the partitions go on, which is the end of the manifest, and the committed offsets of groups
// that the object store has. Until that is applied the shard takes nothing.

const (
	// seedItems bounds the partitions or offsets of one entry.
	seedItems = 4000
)

// Groups keeps the committed offsets of a shard's consumer groups in the object store. *recovery.Groups is one. Safe for
// concurrent use.
type Groups interface {
	// Save puts a state there; what it replaces is removed some time later.
	Save(ctx context.Context, clusterID string, shard uint32, recoveryID string, index uint64, data []byte) error
	// Load calls parse with the newest state from before a recovery, and with older ones while parse fails. It reports
	// whether there was one that parse took, and returns the metadata that each later life of the cluster began with, that
	// of the recovery too: nil for one that nobody has any more.
	Load(ctx context.Context, clusterID string, shard uint32, recoveryID string, parse func([]byte) error) (began []*fsm.View, found bool, err error)
}

func encodeSeed(timeMs int64, s *metav1.ShardSeed) ([]byte, error) {
	data, err := proto.MarshalOptions{}.MarshalAppend(appendHeader(nil, kindSeed, timeMs), s)
	if err != nil {
		return nil, fmt.Errorf("encode seed: %w", err)
	}
	return data, nil
}

func decodeSeed(body []byte) (*metav1.ShardSeed, error) {
	s := &metav1.ShardSeed{}
	if err := proto.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("%w: seed: %w", errEntryCorrupt, err)
	}
	for _, p := range s.GetPartitions() {
		if p.GetNextOffset() < 0 || p.GetUploadedEndOffset() != p.GetNextOffset() {
			return nil, fmt.Errorf("%w: seed of partition id %d has offsets %d and %d", errEntryCorrupt, p.GetPartitionId(),
				p.GetUploadedEndOffset(), p.GetNextOffset())
		}
	}
	return s, nil
}

// seed lets partitions without records here go on where the manifest ends. Once it is done for a recovery, it changes
// nothing any more.
func (s *state) seed(seed *metav1.ShardSeed) (changed []uint64) {
	if s.recoveryID >= seed.GetRecoveryId() {
		return nil
	}
	for _, p := range seed.GetPartitions() {
		id := p.GetPartitionId()
		if _, gone := s.dropped[id]; gone || s.partitions[id] != nil {
			continue
		}
		s.partitions[id] = &partition{next: p.GetNextOffset(), uploaded: p.GetUploadedEndOffset()}
		changed = append(changed, id)
	}
	if seed.GetDone() {
		s.recoveryID = seed.GetRecoveryId()
	}
	return changed
}

func (f *replicaFSM) applySeedLocked(body []byte) error {
	seed, err := decodeSeed(body)
	if err != nil {
		return err
	}
	for _, id := range f.state.seed(seed) {
		f.notifyLocked(id)
	}
	return nil
}

// seeded says whether this replica has all that the shard goes on from after the cluster's last recovery.
func (s *Shard) seeded() bool {
	want := s.cfg.Metadata.View().RecoveryID()
	if want == "" {
		return true
	}
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.state.recoveryID >= want
}

// seedUntil seeds the shard, where that was not done, until it succeeds or ctx ends. What is logged once is not logged again
// while the object store is away.
func (s *Shard) seedUntil(ctx context.Context) error {
	logged := false
	for wait := minUploadRetry; !s.seeded(); wait = min(2*wait, maxUploadRetry) {
		err := s.seedOnce(ctx, &logged)
		if err == nil {
			continue
		}
		if ctx.Err() != nil || !s.replica.IsLeader() {
			return err
		}
		s.log.Warn("the shard does not go on from the recovery yet, trying again", "error", err)
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

// seedOnce logs everything, from the beginning, unless it is logged: a leader before this one may have got half way. Then it
// saves the groups, and logs that this is all.
func (s *Shard) seedOnce(ctx context.Context, logged *bool) error {
	view := s.cfg.Metadata.View()
	if !*logged {
		if err := s.logSeed(ctx, view); err != nil {
			return err
		}
		*logged = true
	}
	if err := s.saveSeededGroups(ctx, view.RecoveryID()); err != nil {
		return err
	}
	if err := s.proposeSeed(ctx, &metav1.ShardSeed{RecoveryId: view.RecoveryID(), Done: true}); err != nil {
		return err
	}
	s.log.Info("the shard goes on from the recovery", "recovery", view.RecoveryID())
	return nil
}

// logSeed logs where the partitions and the groups go on.
func (s *Shard) logSeed(ctx context.Context, view *fsm.View) error {
	var parts []*metav1.ShardPartition
	for t := range view.Topics() {
		for _, id := range t.PartitionIDs {
			if p, ok := view.Partition(id); ok && p.Shard == s.cfg.Shard && p.NextBase() > 0 {
				parts = append(parts, &metav1.ShardPartition{PartitionId: id, NextOffset: p.NextBase(), UploadedEndOffset: p.NextBase()})
			}
		}
	}
	for chunk := range slices.Chunk(parts, seedItems) {
		if err := s.proposeSeed(ctx, &metav1.ShardSeed{RecoveryId: view.RecoveryID(), Partitions: chunk}); err != nil {
			return err
		}
	}
	offsets, err := s.seedGroups(ctx, view)
	if err != nil {
		return err
	}
	s.log.Info("partitions and groups of the recovery are logged", "recovery", view.RecoveryID(), "partitions", len(parts), "group_offsets", offsets)
	return nil
}

func (s *Shard) proposeSeed(ctx context.Context, seed *metav1.ShardSeed) error {
	data, err := encodeSeed(s.nowMs(), seed)
	if err != nil {
		return err
	}
	_, err = s.propose(ctx, data)
	return err
}

// seedGroups logs the committed offsets that the object store has. One beyond the end of its partition, whose records are
// lost, goes to the end, see clampOffsets.
func (s *Shard) seedGroups(ctx context.Context, view *fsm.View) (offsets int, err error) {
	if s.cfg.Groups == nil {
		return 0, nil
	}
	var saved *contents
	began, found, err := s.cfg.Groups.Load(ctx, s.cfg.ClusterID, s.cfg.Shard, view.RecoveryID(), func(data []byte) error {
		var err error
		saved, err = readSnapshot(bytes.NewReader(data), s.cfg.Shard)
		return err
	})
	if err != nil || !found {
		return 0, err
	}
	for name := range saved.state.groups {
		kept := clampOffsets(view, began, saved.state.groupOffsets(name, nil))
		for chunk := range slices.Chunk(kept, seedItems) {
			c := offsetCommit{group: name, offsets: chunk}
			if err := checkCommit(c); err != nil {
				return offsets, err
			}
			if _, err := s.propose(ctx, encodeOffsetCommit(s.nowMs(), c)); err != nil {
				return offsets, err
			}
			offsets += len(chunk)
		}
	}
	return offsets, nil
}

// saveSeededGroups puts the offsets that the shard goes on from into the object store, before it takes anything. When the
// cluster is lost again soon, the next recovery goes on from these, and not from those of the life before: they may be beyond
// the end of their partitions here, where this life has put other records by then, which groups would never read.
func (s *Shard) saveSeededGroups(ctx context.Context, recoveryID string) error {
	if s.cfg.Groups == nil {
		return nil
	}
	_, err := s.saveGroups(ctx, recoveryID)
	return err
}

// clampOffsets leaves out partitions that are gone, and lets no offset be beyond the end that its partition had where one of
// the lives began that came since it was committed, this one too. The end in the manifest by now says nothing: what is there may
// be written since then, in this life by a shard that had a leader earlier, or in one in which this shard had none. A group
// reads such records, and not on behind them. Where nobody knows what a life began with, it reads all that there is.
func clampOffsets(view *fsm.View, began []*fsm.View, offsets []GroupOffset) []GroupOffset {
	var kept []GroupOffset
	for _, o := range offsets {
		p, ok := view.Partition(o.PartitionID)
		if !ok {
			continue
		}
		o.Offset = min(o.Offset, p.NextBase())
		for _, v := range began {
			if v == nil {
				o.Offset = min(o.Offset, p.LogStart)
			} else if then, ok := v.Partition(o.PartitionID); ok {
				o.Offset = min(o.Offset, then.NextBase())
			}
		}
		kept = append(kept, o)
	}
	return kept
}
