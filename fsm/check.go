package fsm

import (
	"fmt"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// Check verifies what always holds of a View, and returns the first thing that
// does not. Its cost is that of reading everything.
func (v *View) Check() error {
	if v.clusterID == "" {
		if len(v.nodes)+len(v.shards)+v.topics.Len()+v.partitions.Len()+v.deleted.Len()+v.objects.Len()+v.dropped.Len() > 0 {
			return fmt.Errorf("there is something and no cluster")
		}
		return nil
	}
	if n := v.NumShards(); n < 1 || n > MaxShards {
		return fmt.Errorf("%d shards", n)
	}
	if v.nextProducerID < 1 || v.nextPartition < 1 {
		return fmt.Errorf("the next producer id is %d, the next partition id %d", v.nextProducerID, v.nextPartition)
	}
	if v.firstProducerID < 0 || v.firstProducerID > v.nextProducerID {
		return fmt.Errorf("the first producer id is %d, the next one %d", v.firstProducerID, v.nextProducerID)
	}
	for _, check := range []func() error{v.checkNodes, v.checkShards, v.checkTopics, v.checkDeleted, v.checkObjects} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (v *View) checkNodes() error {
	for i, n := range v.nodes {
		if err := ValidateNodeID(n.ID); err != nil {
			return fmt.Errorf("node: %w", err)
		}
		if i > 0 && v.nodes[i-1].ID >= n.ID {
			return fmt.Errorf("node %s: does not follow %s", n.ID, v.nodes[i-1].ID)
		}
		if n.FeatureLevel < v.featureLevel {
			return fmt.Errorf("node %s: supports feature level %d, %d is in use", n.ID, n.FeatureLevel, v.featureLevel)
		}
		if NodeOf(n.MetadataReplicaID) != n.ID {
			return fmt.Errorf("node %s: has the metadata replica %q", n.ID, n.MetadataReplicaID)
		}
		if n.State < metav1.NodeState_NODE_STATE_ACTIVE || n.State > metav1.NodeState_NODE_STATE_DECOMMISSIONING {
			return fmt.Errorf("node %s: is in the state %d", n.ID, n.State)
		}
	}
	return nil
}

func (v *View) checkShards() error {
	for i, s := range v.shards {
		if s == nil {
			continue
		}
		if s.Number != uint32(i) || s.Version == 0 {
			return fmt.Errorf("shard %d: is number %d, version %d", i, s.Number, s.Version)
		}
		if n := len(s.Replicas); n < 1 || n > MaxReplicas {
			return fmt.Errorf("shard %d: %d replicas", i, n)
		}
		ids, nodes := make(map[string]bool), make(map[string]bool)
		for _, r := range s.Replicas {
			if err := v.checkShardReplica(s, r); err != nil {
				return fmt.Errorf("shard %d: replica %q: %w", i, r.GetReplicaId(), err)
			}
			lost := r.GetState() == metav1.ReplicaState_REPLICA_STATE_LOST
			if ids[r.GetReplicaId()] || !lost && nodes[r.GetNodeId()] {
				return fmt.Errorf("shard %d: replica %q or its node is there twice", i, r.GetReplicaId())
			}
			ids[r.GetReplicaId()] = true
			nodes[r.GetNodeId()] = nodes[r.GetNodeId()] || !lost
		}
		if s.Initial != "" && !ids[s.Initial] {
			return fmt.Errorf("shard %d: %q is to begin it and is not wished for", i, s.Initial)
		}
	}
	return nil
}

func (v *View) checkShardReplica(s *Shard, r *metav1.Replica) error {
	if _, ok := v.Node(r.GetNodeId()); !ok {
		return fmt.Errorf("there is no node %q", r.GetNodeId())
	}
	if rej := validateReplicaID("id", r.GetReplicaId(), r.GetNodeId()); rej != nil {
		return rej
	}
	switch r.GetState() {
	case metav1.ReplicaState_REPLICA_STATE_NEW, metav1.ReplicaState_REPLICA_STATE_LOST:
		return nil
	case metav1.ReplicaState_REPLICA_STATE_STARTED:
		if s.Initial != "" {
			return fmt.Errorf("has started, and the shard has not begun")
		}
		return nil
	default:
		return fmt.Errorf("is in the state %d", r.GetState())
	}
}

func (v *View) checkTopics() error {
	partitions := 0
	for t := range v.Topics() {
		if err := ValidateName(t.Name); err != nil {
			return fmt.Errorf("topic: %w", err)
		}
		if err := ValidateConfig(t.Config); err != nil {
			return fmt.Errorf("topic %s: %w", t.Name, err)
		}
		if same, ok := v.TopicByUUID(t.UUID); !ok || same != t {
			return fmt.Errorf("topic %s: is not found by its UUID", t.Name)
		}
		if n := len(t.PartitionIDs); n < 1 || n > MaxPartitions {
			return fmt.Errorf("topic %s: %d partitions", t.Name, n)
		}
		for number, id := range t.PartitionIDs {
			p, ok := v.Partition(id)
			if !ok || p.TopicUUID != t.UUID || int(p.Number) != number || id >= v.nextPartition {
				return fmt.Errorf("topic %s: partition %d has the id %d, which is not its own", t.Name, number, id)
			}
			if err := v.checkPartition(p); err != nil {
				return fmt.Errorf("topic %s: partition %d: %w", t.Name, number, err)
			}
		}
		partitions += len(t.PartitionIDs)
	}
	if partitions != v.partitions.Len() || v.topics.Len() != v.topicsByUUID.Len() {
		return fmt.Errorf("%d partitions in %d topics, %d and %d are known", partitions, v.topics.Len(), v.partitions.Len(), v.topicsByUUID.Len())
	}
	return nil
}

// checkPartition verifies that the manifest has no hole and ends at the uploaded end.
func (v *View) checkPartition(p *Partition) error {
	if p.Shard >= v.NumShards() || p.LogStart < 0 || p.UploadedEnd < 0 {
		return fmt.Errorf("shard %d, log start %d, uploaded end %d", p.Shard, p.LogStart, p.UploadedEnd)
	}
	if len(p.Segments) == 0 {
		if p.UploadedEnd > p.LogStart {
			return fmt.Errorf("no segments from %d to %d", p.LogStart, p.UploadedEnd)
		}
		return nil
	}
	if first := p.Segments[0]; first.BaseOffset > p.LogStart || first.EndOffset <= p.LogStart {
		return fmt.Errorf("the first segment has the offsets %d to %d, the log starts at %d", first.BaseOffset, first.EndOffset, p.LogStart)
	}
	var bytes int64
	for i, s := range p.Segments {
		if s.BaseOffset < 0 || s.EndOffset <= s.BaseOffset {
			return fmt.Errorf("segment %d has the offsets %d to %d", i, s.BaseOffset, s.EndOffset)
		}
		if i > 0 && p.Segments[i-1].EndOffset != s.BaseOffset {
			return fmt.Errorf("segment %d begins at %d, the one before ends at %d", i, s.BaseOffset, p.Segments[i-1].EndOffset)
		}
		bytes += int64(s.SizeBytes)
	}
	if end := p.Segments[len(p.Segments)-1].EndOffset; end != p.UploadedEnd {
		return fmt.Errorf("the last segment ends at %d, the uploaded end is %d", end, p.UploadedEnd)
	}
	if bytes != p.segmentBytes {
		return fmt.Errorf("%d bytes of segments, %d are counted", bytes, p.segmentBytes)
	}
	return nil
}

func (v *View) checkDeleted() error {
	for _, t := range v.DeletedTopics() {
		if _, ok := v.TopicByUUID(t.UUID); ok {
			return fmt.Errorf("deleted topic %q: is there", t.Name)
		}
		if len(t.PendingShards) == 0 || !slices.IsSorted(t.PendingShards) {
			return fmt.Errorf("deleted topic %q: pending shards %v", t.Name, t.PendingShards)
		}
		for _, id := range t.PartitionIDs {
			if _, ok := v.Partition(id); ok || id >= v.nextPartition {
				return fmt.Errorf("deleted topic %q: partition id %d is in use", t.Name, id)
			}
		}
	}
	return nil
}

// checkObjects verifies that the counts are those of the manifest.
func (v *View) checkObjects() error {
	live := make(map[string]uint32, v.objects.Len())
	for it := v.partitions.Iterator(); !it.Done(); {
		_, p, _ := it.Next()
		for i := range p.Segments {
			live[p.Segments[i].Object]++
		}
	}
	unused := 0
	for it := v.objects.Iterator(); !it.Done(); {
		name, o, _ := it.Next()
		if live[name] != o.live {
			return fmt.Errorf("object %q: %d live segments, %d are counted", name, live[name], o.live)
		}
		delete(live, name)
		if _, ok := v.dropped.Get(name); ok {
			return fmt.Errorf("object %q: is condemned and is not", name)
		}
		if _, ok := v.unused.Get(name); ok != (o.live == 0) {
			return fmt.Errorf("object %q: %d live segments, unused: %t", name, o.live, ok)
		}
		if o.live == 0 {
			unused++
		}
	}
	if len(live) > 0 || unused != v.unused.Len() {
		return fmt.Errorf("%d objects of the manifest are not known, %d of %d are unused", len(live), v.unused.Len(), unused)
	}
	return nil
}
