package fsm

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// dump prints all that a view holds.
func dump(v *View) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("index=%d cluster=%s name=%s store=%s created=%d level=%d shards=%d next-producer=%d next-partition=%d",
		v.index, v.clusterID, v.clusterName, v.objectStore, v.createdMs, v.featureLevel, v.NumShards(), v.nextProducerID, v.nextPartition)
	for _, n := range v.Nodes() {
		p("node %s incarnation=%s meta=%s zone=%s addrs=%s,%s,%s,%s level=%d state=%s registered=%d", n.ID, n.Incarnation,
			n.MetadataReplicaID, n.Zone, n.RaftAddr, n.GRPCAddr, n.HTTPAddr, n.GossipAddr, n.FeatureLevel,
			strings.TrimPrefix(n.State.String(), "NODE_STATE_"), n.RegisteredMs)
	}
	for _, s := range v.Shards() {
		p("shard %d version=%d initial=%q replicas=%s", s.Number, s.Version, s.Initial, dumpReplicas(s))
	}
	for t := range v.Topics() {
		p("topic %s uuid=%s config=%v created=%d partitions=%v", t.Name, t.UUID[:], t.Config, t.CreatedMs, t.PartitionIDs)
		for _, id := range t.PartitionIDs {
			part, _ := v.Partition(id)
			p("  partition %d id=%d shard=%d start=%d uploaded=%d bytes=%d", part.Number, id, part.Shard, part.LogStart,
				part.UploadedEnd, part.SegmentBytes())
			for _, s := range part.Segments {
				p("    segment %d-%d %s at=%d+%d index=%d+%d max=%d", s.BaseOffset, s.EndOffset, s.Object, s.Position,
					s.SizeBytes, s.IndexPosition, s.IndexBytes, s.MaxTimestampMs)
			}
		}
	}
	for _, t := range v.DeletedTopics() {
		p("deleted %s uuid=%s partitions=%v pending=%v at=%d", t.Name, t.UUID[:], t.PartitionIDs, t.PendingShards, t.DeletedMs)
	}
	for it := v.objects.Iterator(); !it.Done(); {
		name, o, _ := it.Next()
		p("object %s bytes=%d live=%d", name, o.bytes, o.live)
	}
	for name := range v.UnusedObjects() {
		p("unused %s", name)
	}
	for d := range v.DroppedObjects() {
		p("dropped %s at=%d", d.Name, d.DroppedMs)
	}
	return b.String()
}

func dumpReplicas(s *Shard) string {
	var out []string
	for _, r := range s.Replicas {
		out = append(out, r.GetReplicaId()+":"+strings.TrimPrefix(r.GetState().String(), "REPLICA_STATE_"))
	}
	return strings.Join(out, " ")
}

func dumpResult(res *metav1.Result) string {
	if r := res.GetRejection(); r != nil {
		reason := strings.TrimPrefix(streamhousev1.ErrorReason(r.GetReason()).String(), "ERROR_REASON_")
		return fmt.Sprintf("rejected %s field=%q %s\n", reason, r.GetField(), r.GetMessage())
	}
	out := "ok"
	if len(res.GetTopicUuid()) > 0 {
		out += " uuid=" + string(res.GetTopicUuid())
	}
	if res.GetFirstProducerId() != 0 {
		out += fmt.Sprintf(" first=%d", res.GetFirstProducerId())
	}
	for _, o := range res.GetSegments() {
		out += " " + strings.TrimPrefix(o.String(), "SEGMENT_OUTCOME_")
	}
	if len(res.GetDropped()) > 0 {
		out += " dropped=" + strings.Join(res.GetDropped(), ",")
	}
	return out + "\n"
}

// tester is a testing.TB or a *rapid.T.
type tester interface {
	require.TestingT
	Helper()
}

func snapshotOf(tb tester, v *View) []byte {
	tb.Helper()
	var buf bytes.Buffer
	require.NoError(tb, WriteSnapshot(v, &buf))
	return buf.Bytes()
}

// machine applies commands with rising indexes.
type machine struct {
	tb    testing.TB
	state *State
	index uint64
}

func newMachine(tb testing.TB) *machine {
	tb.Helper()
	return &machine{tb: tb, state: New()}
}

func (m *machine) apply(cmd *metav1.Command) *metav1.Result {
	m.tb.Helper()
	m.index++
	res, err := m.state.Apply(m.index, cmd)
	require.NoError(m.tb, err)
	require.NoError(m.tb, m.state.View().Check())
	return res
}

func (m *machine) ok(cmd *metav1.Command) {
	m.tb.Helper()
	res := m.apply(cmd)
	require.Nil(m.tb, res.GetRejection(), "%v", res.GetRejection())
}

func uuidOf(n byte) []byte { return []byte(fmt.Sprintf("uuid-of-topic-%02d", n)) }

func initCluster(shards uint32) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{
		ClusterId: "C1", ClusterName: "test", Shards: shards, ObjectStore: "file:///o", TimeMs: 1,
	}}}
}

func registerNode(id, incarnation string) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_RegisterNode{RegisterNode: &metav1.RegisterNode{
		NodeId: id, Incarnation: incarnation, MetadataReplicaId: id + "/m-" + incarnation, Zone: "z-" + id,
		RaftAddr: id + ":7000", GrpcAddr: id + ":50051", HttpAddr: id + ":8080", GossipAddr: id + ":7946",
		FeatureLevel: 1, TimeMs: 2,
	}}}
}

func createShard(n uint32, replicaID string) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_CreateShard{CreateShard: &metav1.CreateShard{
		Shard: n, Replica: &metav1.Replica{ReplicaId: replicaID, NodeId: NodeOf(replicaID)},
	}}}
}

func setReplicas(n uint32, version uint64, ids ...string) *metav1.Command {
	c := &metav1.SetShardReplicas{Shard: n, Version: version}
	for _, id := range ids {
		c.Replicas = append(c.Replicas, &metav1.Replica{ReplicaId: id, NodeId: NodeOf(id)})
	}
	return &metav1.Command{Command: &metav1.Command_SetShardReplicas{SetShardReplicas: c}}
}

func noteReplica(n uint32, id string, state metav1.ReplicaState) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_NoteReplica{NoteReplica: &metav1.NoteReplica{Shard: n, ReplicaId: id, State: state}}}
}

func createTopic(n byte, name string, partitions uint32, config map[string]string) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: name, Uuid: uuidOf(n), Partitions: partitions, Config: config, TimeMs: 3,
	}}}
}

func deleteTopic(n byte, name string) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{
		Name: name, Uuid: uuidOf(n), TimeMs: 4,
	}}}
}

func purgeTopic(n byte, shard uint32) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_PurgeTopic{PurgeTopic: &metav1.PurgeTopic{Uuid: uuidOf(n), Shard: shard}}}
}

func segment(partition uint64, base, end int64) *metav1.SegmentEntry {
	return &metav1.SegmentEntry{
		PartitionId: partition, BaseOffset: base, EndOffset: end, Position: 16, SizeBytes: 100, MaxTimestampMs: 5,
		IndexPosition: 200, IndexBytes: 10,
	}
}

func commit(object string, shard uint32, segments ...*metav1.SegmentEntry) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: object, ObjectBytes: 1000, Shard: shard, Segments: segments, TimeMs: 6,
	}}}
}

// replace has the manifest list what a commit would list instead of another object.
func replace(object string, commit *metav1.Command) *metav1.Command {
	c := commit.GetCommitSegments()
	return &metav1.Command{Command: &metav1.Command_ReplaceSegments{ReplaceSegments: &metav1.ReplaceSegments{
		Object: object, Replacement: c.GetObject(), ReplacementBytes: c.GetObjectBytes(), Shard: c.GetShard(), Segments: c.GetSegments(),
	}}}
}

func trim(partition uint64, start int64) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_TrimPartition{TrimPartition: &metav1.TrimPartition{
		PartitionId: partition, LogStartOffset: start,
	}}}
}

func drop(objects ...string) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_DropObjects{DropObjects: &metav1.DropObjects{Objects: objects, TimeMs: 7}}}
}

func forget(objects ...string) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_ForgetObjects{ForgetObjects: &metav1.ForgetObjects{Objects: objects}}}
}

// sample is a state with something of every kind.
func sample(tb testing.TB) *machine {
	tb.Helper()
	m := newMachine(tb)
	for _, c := range []*metav1.Command{
		initCluster(2), registerNode("n1", "01A"), registerNode("n2", "01B"),
		createShard(0, "n1/a"), noteReplica(0, "n1/a", metav1.ReplicaState_REPLICA_STATE_STARTED),
		setReplicas(0, 1, "n1/a", "n2/b"), createShard(1, "n2/c"),
		createTopic(1, "logs", 4, map[string]string{ConfigRetentionMs: "1000", ConfigRetentionBytes: "5000"}),
		createTopic(2, "gone", 2, nil),
		commit("o1", 0, segment(2, 0, 10), segment(4, 0, 5), segment(6, 0, 7)),
		commit("o2", 1, segment(1, 0, 3)), commit("o3", 0, segment(2, 10, 20)), trim(2, 10), trim(1, 3),
		deleteTopic(2, "gone"), drop("o9"),
		{Command: &metav1.Command_AllocateProducerIds{AllocateProducerIds: &metav1.AllocateProducerIDs{Count: 100}}},
	} {
		m.ok(c)
	}
	return m
}
