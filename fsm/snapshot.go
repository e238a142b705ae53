package fsm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// The format is described in docs/format/metadata-snapshot.md.
const (
	snapshotMagic   = "SHMETAD"
	snapshotVersion = 1
	// snapshotPrefixBytes is the magic and the version.
	snapshotPrefixBytes = len(snapshotMagic) + 1
	// maxItemBytes bounds one message.
	maxItemBytes = 4 << 20
	// maxItemSegments is how many segments one message carries; a partition with more takes several.
	maxItemSegments = 1000
	// snapshotWindowBytes bounds what the decompressor keeps.
	snapshotWindowBytes = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// WriteSnapshot streams a view to w. It may run beside State.Apply.
func WriteSnapshot(v *View, w io.Writer) error {
	prefix := append([]byte(snapshotMagic), snapshotVersion)
	if _, err := w.Write(prefix); err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(snapshotWindowBytes))
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	sw := &snapshotWriter{w: z, crc: crc32.Checksum(prefix, castagnoli)}
	if err := sw.view(v); err != nil {
		_ = z.Close() // The first error is the one that counts.
		return err
	}
	return z.Close()
}

type snapshotWriter struct {
	w     io.Writer
	crc   uint32
	items uint64
	buf   []byte
}

func (sw *snapshotWriter) write(b []byte) error {
	sw.crc = crc32.Update(sw.crc, castagnoli, b)
	_, err := sw.w.Write(b)
	return err
}

func (sw *snapshotWriter) message(m proto.Message) error {
	buf, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(append(sw.buf[:0], 0, 0, 0, 0), m)
	if err != nil {
		return err
	}
	sw.buf = buf
	n := len(buf) - 4
	if n > maxItemBytes {
		return fmt.Errorf("snapshot item of %d bytes, at most %d", n, maxItemBytes)
	}
	binary.BigEndian.PutUint32(buf, uint32(n))
	sw.items++
	return sw.write(buf)
}

func (sw *snapshotWriter) end() error {
	tail := make([]byte, 4, 16)
	tail = binary.BigEndian.AppendUint64(tail, sw.items)
	if err := sw.write(tail); err != nil {
		return err
	}
	_, err := sw.w.Write(binary.BigEndian.AppendUint32(nil, sw.crc))
	return err
}

func (sw *snapshotWriter) view(v *View) error {
	steps := []func(*View) error{sw.header, sw.nodes, sw.shards, sw.topics, sw.deletedTopics, sw.objects}
	for _, step := range steps {
		if err := step(v); err != nil {
			return err
		}
	}
	return sw.end()
}

func (sw *snapshotWriter) header(v *View) error {
	return sw.message(&metav1.SnapshotHeader{
		Version:         snapshotVersion,
		ClusterId:       v.clusterID,
		ClusterName:     v.clusterName,
		Shards:          v.NumShards(),
		ObjectStore:     v.objectStore,
		FeatureLevel:    v.featureLevel,
		FirstProducerId: v.firstProducerID,
		NextProducerId:  v.nextProducerID,
		NextPartitionId: v.nextPartition,
		CreatedMs:       v.createdMs,
		Index:           v.index,
		RecoveryId:      v.recoveryID,
		RecoveredFrom:   v.recoveredFrom,
	})
}

func (sw *snapshotWriter) nodes(v *View) error {
	for _, n := range v.nodes {
		item := &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Node{Node: &metav1.NodeItem{
			NodeId:            n.ID,
			Incarnation:       n.Incarnation,
			MetadataReplicaId: n.MetadataReplicaID,
			Zone:              n.Zone,
			RaftAddr:          n.RaftAddr,
			GrpcAddr:          n.GRPCAddr,
			HttpAddr:          n.HTTPAddr,
			GossipAddr:        n.GossipAddr,
			FeatureLevel:      n.FeatureLevel,
			State:             n.State,
			RegisteredMs:      n.RegisteredMs,
		}}}
		if err := sw.message(item); err != nil {
			return err
		}
	}
	return nil
}

func (sw *snapshotWriter) shards(v *View) error {
	for _, s := range v.Shards() {
		item := &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Shard{Shard: &metav1.ShardItem{
			Shard: s.Number, Replicas: s.Replicas, Version: s.Version, InitialReplicaId: s.Initial,
		}}}
		if err := sw.message(item); err != nil {
			return err
		}
	}
	return nil
}

func (sw *snapshotWriter) topics(v *View) error {
	for t := range v.Topics() {
		item := &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Topic{Topic: &metav1.TopicItem{
			Name: t.Name, Uuid: t.UUID[:], Config: t.Config, CreatedMs: t.CreatedMs, PartitionIds: t.PartitionIDs,
		}}}
		if err := sw.message(item); err != nil {
			return err
		}
		for _, id := range t.PartitionIDs {
			p, _ := v.Partition(id)
			if err := sw.partition(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (sw *snapshotWriter) partition(p *Partition) error {
	item := &metav1.PartitionItem{
		PartitionId:       p.ID,
		Shard:             p.Shard,
		TopicUuid:         p.TopicUUID[:],
		Number:            uint32(p.Number),
		LogStartOffset:    p.LogStart,
		UploadedEndOffset: p.UploadedEnd,
	}
	rest := p.Segments
	for {
		n := min(len(rest), maxItemSegments)
		for i := range n {
			item.Segments = append(item.Segments, rest[i].Ref(p.ID))
		}
		rest = rest[n:]
		if err := sw.message(&metav1.SnapshotItem{Item: &metav1.SnapshotItem_Partition{Partition: item}}); err != nil {
			return err
		}
		if len(rest) == 0 {
			return nil
		}
		item = &metav1.PartitionItem{PartitionId: p.ID}
	}
}

func (sw *snapshotWriter) deletedTopics(v *View) error {
	for _, t := range v.DeletedTopics() {
		item := &metav1.SnapshotItem{Item: &metav1.SnapshotItem_DeletedTopic{DeletedTopic: &metav1.DeletedTopicItem{
			Uuid: t.UUID[:], Name: t.Name, PartitionIds: t.PartitionIDs, PendingShards: t.PendingShards, DeletedMs: t.DeletedMs,
		}}}
		if err := sw.message(item); err != nil {
			return err
		}
	}
	return nil
}

func (sw *snapshotWriter) objects(v *View) error {
	for it := v.objects.Iterator(); !it.Done(); {
		name, o, _ := it.Next()
		item := &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Object{Object: &metav1.ObjectItem{
			Object: name, ObjectBytes: o.bytes, LiveSegments: o.live,
		}}}
		if err := sw.message(item); err != nil {
			return err
		}
	}
	for d := range v.DroppedObjects() {
		item := &metav1.SnapshotItem{Item: &metav1.SnapshotItem_DroppedObject{DroppedObject: &metav1.DroppedObjectItem{
			Object: d.Name, DroppedMs: d.DroppedMs,
		}}}
		if err := sw.message(item); err != nil {
			return err
		}
	}
	return nil
}
