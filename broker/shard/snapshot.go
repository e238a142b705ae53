package shard

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

// A shard's snapshot (docs/format/shard-snapshot.md) is the magic, then frames, each a ShardSnapshotItem:
//
//	+----------------+-------------------+------------------+
//	| length, uint32 | item (protobuf)   | CRC32C, uint32   |   big endian; the CRC covers the item
//	+----------------+-------------------+------------------+
//
// The first item is the header, the last the end, which counts the items before it. Behind it may be what the replica that took
// the snapshot knows of its log, and another end.
const (
	snapshotMagic    = "SHSHARD\x01"
	snapshotVersion  = 1
	maxSnapshotFrame = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	// ErrSnapshotCorrupt means that a snapshot is damaged or does not fit together.
	ErrSnapshotCorrupt = errors.New("shard snapshot is corrupt")
	// ErrSnapshotVersion means that a snapshot has a format that this version can't read.
	ErrSnapshotVersion = errors.New("shard snapshot has an unknown version")
)

// errNotPinned says that a snapshot was asked for without a checkpoint's preparation.
var errNotPinned = errors.New("batches that are not in the object store are not pinned")

// snapshot is an immutable copy of the state's small parts, and references to the batches.
type snapshot struct {
	header     *metav1.ShardSnapshotHeader
	partitions []*metav1.ShardPartition
	producers  []producerState
	groups     []*metav1.ShardSnapshotItem
	dropped    map[uint64]int64
	pinned     map[uint64]memRun
	log        *savedLog // nil where the replica has no id
}

var _ raft.FSMSnapshot = (*snapshot)(nil)

func newSnapshot(shard uint32, s *state, l *local) (*snapshot, error) {
	sn := &snapshot{
		header: &metav1.ShardSnapshotHeader{
			Version: snapshotVersion, Shard: shard, TimeMs: s.timeMs, RecoveryId: s.recoveryID, GroupsIndex: s.groupsIndex,
		},
		groups:  groupItems(s.groups),
		dropped: maps.Clone(s.dropped),
		pinned:  make(map[uint64]memRun, len(l.pinned)),
	}
	for _, id := range slices.Sorted(maps.Keys(s.partitions)) {
		p := s.partitions[id]
		sn.partitions = append(sn.partitions, &metav1.ShardPartition{
			PartitionId: id, NextOffset: p.next, UploadedEndOffset: p.uploaded,
		})
		if p.uploaded == p.next {
			continue
		}
		run, ok := l.pinned[id].from(p.uploaded)
		if !ok || run[0].base != p.uploaded || run[len(run)-1].next() != p.next {
			return nil, fmt.Errorf("shard %d, partition id %d, offsets %d to %d: %w", shard, id, p.uploaded, p.next, errNotPinned)
		}
		sn.pinned[id] = run
	}
	for el := s.producers.order.Front(); el != nil; el = el.Next() {
		p := *el.Value.(*producerState)
		p.batches = slices.Clone(p.batches)
		sn.producers = append(sn.producers, p)
	}
	return sn, nil
}

// Persist writes the snapshot; Raft calls it outside of the FSM's goroutine.
func (sn *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := sn.write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release lets go of nothing: the handle is plain memory.
func (sn *snapshot) Release() {}

func (sn *snapshot) write(w io.Writer) error {
	fw := &frameWriter{w: bufio.NewWriterSize(w, 1<<20)}
	if _, err := fw.w.WriteString(snapshotMagic); err != nil {
		return err
	}
	fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Header{Header: sn.header}})
	for _, p := range sn.partitions {
		fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Partition{Partition: p}})
	}
	for i := range sn.producers {
		fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Producer{Producer: producerItem(&sn.producers[i])}})
	}
	for _, item := range sn.groups {
		fw.put(item)
	}
	for _, id := range slices.Sorted(maps.Keys(sn.dropped)) {
		fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_DroppedPartition{DroppedPartition: &metav1.ShardDroppedPartition{
			PartitionId: id, TimeMs: sn.dropped[id],
		}}})
	}
	for _, id := range slices.Sorted(maps.Keys(sn.pinned)) {
		for _, m := range sn.pinned[id] {
			fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Batch{Batch: &metav1.ShardBatch{
				PartitionId: id, BaseOffset: m.base, RecordBatch: m.data,
			}}})
		}
	}
	fw.end()
	if sn.log != nil {
		sn.log.write(fw)
	}
	if fw.err != nil {
		return fw.err
	}
	return fw.w.Flush()
}

func producerItem(p *producerState) *metav1.ShardProducer {
	item := &metav1.ShardProducer{
		PartitionId: p.key.partitionID, ProducerId: p.key.producerID, Epoch: int32(p.epoch), TimeMs: p.timeMs,
	}
	for _, b := range p.batches {
		item.Batches = append(item.Batches, &metav1.ShardProducerBatch{
			BaseSequence: b.baseSequence, Records: b.records, BaseOffset: b.baseOffset,
		})
	}
	return item
}

// frameWriter writes frames and keeps the first error.
type frameWriter struct {
	w     *bufio.Writer
	buf   []byte
	items uint64
	err   error
}

// end puts an end, which counts all before it.
func (fw *frameWriter) end() {
	fw.put(&metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_End{End: &metav1.ShardSnapshotEnd{Items: fw.items}}})
}

func (fw *frameWriter) put(item *metav1.ShardSnapshotItem) {
	if fw.err != nil {
		return
	}
	buf, err := proto.MarshalOptions{}.MarshalAppend(append(fw.buf[:0], 0, 0, 0, 0), item)
	if err != nil {
		fw.err = err
		return
	}
	if len(buf)-4 > maxSnapshotFrame {
		fw.err = fmt.Errorf("snapshot item %d has %d bytes, at most %d can be read again", fw.items, len(buf)-4, maxSnapshotFrame)
		return
	}
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-4))
	buf = binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf[4:], castagnoli))
	fw.buf = buf
	fw.items++
	_, fw.err = fw.w.Write(buf)
}

// readSnapshot reads what snapshot.write wrote, for this shard.
func readSnapshot(r io.Reader, shard uint32) (*contents, error) {
	br := bufio.NewReaderSize(r, 1<<20)
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != snapshotMagic {
		return nil, fmt.Errorf("%w: bad magic", ErrSnapshotCorrupt)
	}
	rs := newRestorer(shard)
	err := rs.read(br, rs.add)
	if err == nil {
		err = rs.finish()
	}
	if errors.Is(err, ErrSnapshotVersion) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshotCorrupt, err)
	}
	if rs.read(br, rs.addLog) != nil {
		rs.log = nil // there is none, or one that a later program wrote: the state is whole without it
	}
	return &rs.contents, nil
}

// read passes items to add up to the next end.
func (rs *restorer) read(br *bufio.Reader, add func(*metav1.ShardSnapshotItem) error) error {
	for rs.ended = false; !rs.ended; rs.items++ {
		item, err := readFrame(br)
		if err == nil {
			err = add(item)
		}
		if err != nil {
			return fmt.Errorf("item %d: %w", rs.items, err)
		}
	}
	return nil
}

func readFrame(br *bufio.Reader) (*metav1.ShardSnapshotItem, error) {
	var word [4]byte
	if _, err := io.ReadFull(br, word[:]); err != nil {
		return nil, fmt.Errorf("cut: %w", err)
	}
	n := binary.BigEndian.Uint32(word[:])
	if n > maxSnapshotFrame {
		return nil, fmt.Errorf("frame of %d bytes", n)
	}
	buf, err := readExactly(br, int(n)+4)
	if err != nil {
		return nil, fmt.Errorf("cut: %w", err)
	}
	if crc32.Checksum(buf[:n], castagnoli) != binary.BigEndian.Uint32(buf[n:]) {
		return nil, errors.New("bad CRC")
	}
	item := &metav1.ShardSnapshotItem{}
	if err := proto.Unmarshal(buf[:n], item); err != nil {
		return nil, err
	}
	return item, nil
}

// readExactly reads n bytes, and allocates no more than a little beyond what is really there.
func readExactly(r io.Reader, n int) ([]byte, error) {
	const step = 1 << 20
	buf := make([]byte, 0, min(n, step))
	for len(buf) < n {
		k := min(n-len(buf), step)
		buf = slices.Grow(buf, k)
		part := buf[len(buf) : len(buf)+k]
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, err
		}
		buf = buf[:len(buf)+k]
	}
	return buf, nil
}

// contents are what a snapshot has.
type contents struct {
	state  *state
	pinned map[uint64]memRun
	log    *savedLog // nil where it has none
}

// restorer builds it from items.
type restorer struct {
	contents

	shard uint32
	group *metav1.ShardGroup // begun; its topics and members follow
	items uint64
	begun bool
	ended bool
}

func newRestorer(shard uint32) *restorer {
	return &restorer{shard: shard, contents: contents{state: newState(), pinned: make(map[uint64]memRun)}}
}

func (rs *restorer) add(item *metav1.ShardSnapshotItem) error {
	if h := item.GetHeader(); h != nil {
		if h.GetVersion() != snapshotVersion {
			return fmt.Errorf("%w: %d, this one reads %d", ErrSnapshotVersion, h.GetVersion(), snapshotVersion)
		}
		if rs.begun || h.GetShard() != rs.shard {
			return fmt.Errorf("header of shard %d, want one of %d", h.GetShard(), rs.shard)
		}
		rs.begun = true
		rs.state.timeMs = h.GetTimeMs()
		rs.state.recoveryID = h.GetRecoveryId()
		rs.state.groupsIndex = h.GetGroupsIndex()
		return nil
	}
	if !rs.begun {
		return errors.New("no header")
	}
	if added, err := rs.addToGroup(item); added || err != nil {
		return err
	}
	switch it := item.GetItem().(type) {
	case *metav1.ShardSnapshotItem_Partition:
		p := it.Partition
		if p.GetNextOffset() < 0 || p.GetUploadedEndOffset() < 0 || p.GetUploadedEndOffset() > p.GetNextOffset() {
			return fmt.Errorf("partition id %d has offsets %d and %d", p.GetPartitionId(), p.GetUploadedEndOffset(), p.GetNextOffset())
		}
		rs.state.partitions[p.GetPartitionId()] = &partition{next: p.GetNextOffset(), uploaded: p.GetUploadedEndOffset()}
	case *metav1.ShardSnapshotItem_Producer:
		return rs.addProducer(it.Producer)
	case *metav1.ShardSnapshotItem_GroupOffset:
		rs.addOffset(it.GroupOffset)
	case *metav1.ShardSnapshotItem_Group:
		return rs.addGroup(it.Group)
	case *metav1.ShardSnapshotItem_DroppedPartition:
		rs.state.dropped[it.DroppedPartition.GetPartitionId()] = it.DroppedPartition.GetTimeMs()
	case *metav1.ShardSnapshotItem_Batch:
		return rs.addBatch(it.Batch)
	case *metav1.ShardSnapshotItem_End:
		return rs.end(it.End)
	default:
		return errors.New("unknown item")
	}
	return nil
}

func (rs *restorer) end(item *metav1.ShardSnapshotEnd) error {
	if item.GetItems() != rs.items {
		return fmt.Errorf("end after %d items, written were %d", rs.items, item.GetItems())
	}
	rs.ended = true
	return nil
}

func (rs *restorer) addProducer(item *metav1.ShardProducer) error {
	p := &producerState{
		key:    producerKey{item.GetPartitionId(), item.GetProducerId()},
		epoch:  int16(item.GetEpoch()),
		timeMs: item.GetTimeMs(),
	}
	for _, b := range item.GetBatches() {
		p.batches = append(p.batches, producerBatch{p.epoch, b.GetBaseSequence(), b.GetRecords(), b.GetBaseOffset()})
	}
	if len(p.batches) == 0 || len(p.batches) > rememberedBatches || rs.state.producers.byKey[p.key] != nil {
		return fmt.Errorf("producer %d has %d batches or is there twice", p.key.producerID, len(p.batches))
	}
	rs.state.producers.restore(p)
	return nil
}

func (rs *restorer) addBatch(item *metav1.ShardBatch) error {
	b, rest, err := record.Parse(item.GetRecordBatch())
	if err != nil {
		return err
	}
	p := rs.state.partitions[item.GetPartitionId()]
	if len(rest) > 0 || p == nil {
		return fmt.Errorf("batch of partition id %d does not fit", item.GetPartitionId())
	}
	want := p.uploaded
	run := rs.pinned[item.GetPartitionId()]
	if len(run) > 0 {
		want = run[len(run)-1].next()
	}
	m := memBatch{base: item.GetBaseOffset(), data: b}
	if m.base != want || m.next() > p.next {
		return fmt.Errorf("batch of partition id %d at offset %d, want %d", item.GetPartitionId(), m.base, want)
	}
	rs.pinned[item.GetPartitionId()] = append(run, m)
	p.addPending(pendingRun{base: m.base, end: m.next(), bytes: int64(len(b)), sinceMs: rs.state.timeMs})
	rs.state.pendingBytes += int64(len(b))
	return nil
}

// finish checks that every partition's pending batches are all there.
func (rs *restorer) finish() error {
	for id, p := range rs.state.partitions {
		end := p.uploaded
		if run := rs.pinned[id]; len(run) > 0 {
			end = run[len(run)-1].next()
		}
		if end != p.next {
			return fmt.Errorf("partition id %d ends at offset %d, its batches at %d", id, p.next, end)
		}
	}
	return nil
}
