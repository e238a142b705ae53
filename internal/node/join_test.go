package node

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/fsm"
)

// fakeMetadata is a metadata group of one that applies at once.
type fakeMetadata struct {
	state    *fsm.State
	index    uint64
	follower bool
}

func (f *fakeMetadata) IsLeader() bool                                 { return !f.follower }
func (f *fakeMetadata) ReadIndexLocal(context.Context) (uint64, error) { return f.index, nil }
func (f *fakeMetadata) View() *fsm.View                                { return f.state.View() }

func (f *fakeMetadata) Propose(_ context.Context, cmd *metav1.Command) (*metav1.Result, error) {
	f.index++
	return f.state.Apply(f.index, cmd)
}

// fakeLiveness lists "<node id>/<incarnation>".
type fakeLiveness map[string]bool

func (f fakeLiveness) IncarnationAlive(nodeID, incarnation string) bool {
	return f[nodeID+"/"+incarnation]
}

func newTestJoiner(t *testing.T) (*joiner, *fakeMetadata) {
	t.Helper()
	meta := &fakeMetadata{state: fsm.New()}
	_, err := meta.Propose(t.Context(), &metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{
		ClusterId: "c1", ClusterName: "name", Shards: 6, ObjectStore: "file:///x", TimeMs: 1,
	}}})
	require.NoError(t, err)
	return &joiner{
		clusterName: "name", metadata: meta, gossip: fakeLiveness{}, log: slog.New(slog.DiscardHandler),
		now: func() time.Time { return time.UnixMilli(1) },
	}, meta
}

func joinRequest(incarnation string) *nodev1.JoinRequest {
	const id = "n1"
	return &nodev1.JoinRequest{
		ClusterName: "name", ClusterId: "c1", NodeId: id, Incarnation: incarnation, MetadataReplicaId: id + "/" + incarnation,
		RaftAddr: "h:1", GrpcAddr: "h:2", HttpAddr: "h:3", GossipAddr: "h:4", FeatureLevel: fsm.FeatureLevel,
	}
}

func TestJoinRegisters(t *testing.T) {
	j, meta := newTestJoiner(t)
	resp, err := j.Join(t.Context(), joinRequest("01A"))
	require.NoError(t, err)
	require.Equal(t, "c1", resp.GetClusterId())
	n, ok := meta.View().Node("n1")
	require.True(t, ok)
	require.Equal(t, "01A", n.Incarnation)

	index := meta.index
	_, err = j.Join(t.Context(), joinRequest("01A"))
	require.NoError(t, err)
	require.Equal(t, index, meta.index, "what is known is not written again")

	_, err = j.Join(t.Context(), joinRequest("01B"))
	require.NoError(t, err, "a new life of a dead node")
	n, _ = meta.View().Node("n1")
	require.Equal(t, "01B", n.Incarnation)
}

func TestJoinRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*nodev1.JoinRequest)
		alive  fakeLiveness
		want   streamhousev1.ErrorReason
		text   string
	}{
		"another name": {
			func(r *nodev1.JoinRequest) { r.ClusterName = "other" }, nil,
			streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER, "other",
		},
		"another cluster's directory": {
			func(r *nodev1.JoinRequest) { r.ClusterId = "c2" }, nil,
			streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER, "--data-dir",
		},
		"a live node of this id": {
			func(r *nodev1.JoinRequest) { r.Incarnation = "01C" },
			fakeLiveness{"n1/01B": true},
			streamhousev1.ErrorReason_ERROR_REASON_NODE_ID_IN_USE, "--node-id",
		},
		"an old life": {
			func(r *nodev1.JoinRequest) { r.Incarnation = "01A" }, nil,
			streamhousev1.ErrorReason_ERROR_REASON_WRONG_NODE_STATE, "--data-dir",
		},
		"a replica of another node": {
			func(r *nodev1.JoinRequest) { r.MetadataReplicaId = "n2/01B" }, nil,
			streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD, "metadata_replica_id",
		},
	} {
		t.Run(name, func(t *testing.T) {
			j, meta := newTestJoiner(t)
			_, err := j.Join(t.Context(), joinRequest("01B"))
			require.NoError(t, err)
			index := meta.index
			if tc.alive != nil {
				j.gossip = tc.alive
			}
			req := joinRequest("01B")
			tc.change(req)
			_, err = j.Join(t.Context(), req)
			var rejected *fsm.Rejection
			require.ErrorAs(t, err, &rejected)
			require.Equal(t, tc.want, rejected.Reason)
			require.Contains(t, err.Error(), tc.text)
			require.Equal(t, index, meta.index)
		})
	}
}

// A node that the cluster had, and has no more, was removed, and does not come back by being started again.
func TestRemovedNodeDoesNotJoin(t *testing.T) {
	j, _ := newTestJoiner(t)
	req := joinRequest("01B")
	req.Registered = true
	_, err := j.Join(t.Context(), req)
	require.ErrorContains(t, err, "was removed")
	require.True(t, refusedForGood(err, 0))
	req.RecoveryId = "another life"
	_, err = j.Join(t.Context(), req)
	require.ErrorIs(t, err, metadata.ErrNoLeader)

	_, err = j.Join(t.Context(), joinRequest("01C"))
	require.NoError(t, err, "with another data directory it does")
	req = joinRequest("01C")
	req.Registered = true
	_, err = j.Join(t.Context(), req)
	require.NoError(t, err)
}

func TestJoinOnAFollower(t *testing.T) {
	j, meta := newTestJoiner(t)
	meta.follower = true
	_, err := j.Join(t.Context(), joinRequest("01A"))
	require.ErrorIs(t, err, metadata.ErrNotLeader)
}

func TestJoinBeforeTheClusterIsBegun(t *testing.T) {
	j, _ := newTestJoiner(t)
	j.metadata = &fakeMetadata{state: fsm.New()}
	_, err := j.Join(t.Context(), joinRequest("01A"))
	require.ErrorIs(t, err, metadata.ErrNoLeader)
}

func TestRefusalSurvivesTheWire(t *testing.T) {
	st, err := status.New(codes.FailedPrecondition, "node id in use").WithDetails(&errdetails.ErrorInfo{
		Reason: "NODE_ID_IN_USE", Domain: "streamhouse",
	})
	require.NoError(t, err)
	got := rejectionOf(st.Err())
	require.False(t, refusedForGood(got, time.Second), "the others may still see the old life")
	require.True(t, refusedForGood(got, idInUseWait+time.Second))
	require.True(t, refusedForGood(reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER, "x"), 0))
	require.False(t, refusedForGood(rejectionOf(status.Error(codes.Unavailable, "x")), time.Hour))
}
