package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

// statusJSON and what is in it are what -o json prints: the names do not change.
type statusJSON struct {
	ClusterID      string      `json:"cluster_id"`
	ClusterName    string      `json:"cluster_name"`
	ObjectStore    string      `json:"object_store"`
	AnsweredBy     string      `json:"answered_by"`
	MetadataLeader string      `json:"metadata_leader"`
	Nodes          []nodeJSON  `json:"nodes"`
	Shards         []shardJSON `json:"shards"`
}

type nodeJSON struct {
	ID           string `json:"id"`
	Zone         string `json:"zone"`
	State        string `json:"state"`
	Alive        bool   `json:"alive"`
	MetadataRole string `json:"metadata_role"`
	GRPCAddr     string `json:"grpc_addr"`
	HTTPAddr     string `json:"http_addr"`
	RaftAddr     string `json:"raft_addr"`
	Replicas     int32  `json:"replicas"`
	Leaders      int32  `json:"leaders"`
}

type shardJSON struct {
	Shard              uint32        `json:"shard"`
	Leader             string        `json:"leader"`
	Term               uint64        `json:"term"`
	CommitIndex        uint64        `json:"commit_index"`
	UploadBacklogBytes int64         `json:"upload_backlog_bytes"`
	LogBytes           int64         `json:"log_bytes"`
	Replicas           []replicaJSON `json:"replicas"`
}

type replicaJSON struct {
	ID           string `json:"id"`
	Node         string `json:"node"`
	Role         string `json:"role"`
	AppliedIndex uint64 `json:"applied_index"`
}

// roleVoter is the role of a full member of a group.
const roleVoter = "voter"

func stateName(s streamhousev1.NodeState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "NODE_STATE_"))
}

func newStatusJSON(r *streamhousev1.GetClusterStatusResponse) statusJSON {
	s := statusJSON{
		ClusterID: r.GetClusterId(), ClusterName: r.GetClusterName(), ObjectStore: r.GetObjectStore(),
		AnsweredBy: r.GetNodeId(), MetadataLeader: r.GetMetadataLeader(), Nodes: []nodeJSON{}, Shards: []shardJSON{},
	}
	for _, n := range r.GetNodes() {
		s.Nodes = append(s.Nodes, nodeJSON{
			ID: n.GetNodeId(), Zone: n.GetZone(), State: stateName(n.GetState()), Alive: n.GetAlive(), MetadataRole: n.GetMetadataRole(),
			GRPCAddr: n.GetGrpcAddr(), HTTPAddr: n.GetHttpAddr(), RaftAddr: n.GetRaftAddr(), Replicas: n.GetReplicas(), Leaders: n.GetLeaders(),
		})
	}
	for _, sh := range r.GetShards() {
		j := shardJSON{
			Shard: sh.GetShard(), Leader: sh.GetLeader(), Term: sh.GetTerm(), CommitIndex: sh.GetCommitIndex(),
			UploadBacklogBytes: sh.GetUploadBacklogBytes(), LogBytes: sh.GetLogBytes(), Replicas: []replicaJSON{},
		}
		for _, p := range sh.GetReplicas() {
			j.Replicas = append(j.Replicas, replicaJSON{ID: p.GetReplicaId(), Node: p.GetNodeId(), Role: p.GetRole(), AppliedIndex: p.GetAppliedIndex()})
		}
		s.Shards = append(s.Shards, j)
	}
	return s
}

func (a *app) clusterCommand() *cobra.Command {
	return group("cluster", "Show and change who is in the cluster",
		a.clusterStatus(),
		a.nodeChange("drain", "Move replicas and leaderships off a node, and put no new ones there", drainNode, drained),
		a.nodeChange("undrain", "Let a drained node take replicas again", undrainNode, nil),
		a.nodeChange("decommission", "Drain a node and remove it from the cluster", decommissionNode, removed),
		a.transferLeader(),
	)
}

// clusterCall calls the service with one address after the other.
func clusterCall[T any](ctx context.Context, p *remote.Pool, fn func(context.Context, streamhousev1.ClusterServiceClient) (T, error)) (T, error) {
	return remote.Call(ctx, p, remote.Idempotent, func(ctx context.Context, cc grpc.ClientConnInterface) (T, error) {
		return fn(ctx, streamhousev1.NewClusterServiceClient(cc))
	})
}

func getStatus(ctx context.Context, p *remote.Pool) (statusJSON, error) {
	resp, err := clusterCall(ctx, p, func(ctx context.Context, s streamhousev1.ClusterServiceClient) (*streamhousev1.GetClusterStatusResponse, error) {
		return s.GetClusterStatus(ctx, &streamhousev1.GetClusterStatusRequest{})
	})
	if err != nil {
		return statusJSON{}, err
	}
	return newStatusJSON(resp), nil
}

func (a *app) clusterStatus() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes and shards",
		Args:  exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				s, err := getStatus(ctx, p)
				if err != nil {
					return err
				}
				if c.format == output.Table {
					return a.writeStatus(s)
				}
				ids := make([]string, 0, len(s.Nodes))
				for _, n := range s.Nodes {
					ids = append(ids, n.ID)
				}
				return output.Write(a.stdout, c.format, s, nil, ids)
			})
		}),
	}
	return c.call(cmd)
}

func (a *app) writeStatus(s statusJSON) error {
	nodes := &output.Rows{Titles: []string{"NODE", "STATE", "ALIVE", "ZONE", "METADATA", "REPLICAS", "LEADERS", "GRPC", "HTTP", "RAFT"}}
	for _, n := range s.Nodes {
		role := n.MetadataRole
		if n.ID == s.MetadataLeader {
			role = "leader"
		}
		alive := "yes"
		if !n.Alive {
			alive = "no"
		}
		nodes.Add(n.ID, n.State, alive, n.Zone, role, n.Replicas, n.Leaders, n.GRPCAddr, n.HTTPAddr, n.RaftAddr)
	}
	shards := &output.Rows{Titles: []string{"SHARD", "LEADER", "TERM", "COMMITTED", "LOG", "NOT UPLOADED", "REPLICAS (APPLIED)"}}
	for _, sh := range s.Shards {
		var replicas []string
		for _, r := range sh.Replicas {
			text := fmt.Sprintf("%s (%d)", r.Node, r.AppliedIndex)
			if r.Role != roleVoter {
				text = fmt.Sprintf("%s (%d, %s)", r.Node, r.AppliedIndex, r.Role)
			}
			replicas = append(replicas, text)
		}
		shards.Add(sh.Shard, sh.Leader, sh.Term, sh.CommitIndex, output.Bytes(sh.LogBytes), output.Bytes(sh.UploadBacklogBytes), strings.Join(replicas, ", "))
	}
	if _, err := fmt.Fprintf(a.stdout, "Cluster %s, id %s, object store %s\n\n", s.ClusterName, s.ClusterID, s.ObjectStore); err != nil {
		return err
	}
	if _, err := nodes.WriteTo(a.stdout); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.stdout); err != nil {
		return err
	}
	_, err := shards.WriteTo(a.stdout)
	return err
}

func drainNode(ctx context.Context, s streamhousev1.ClusterServiceClient, id string) error {
	_, err := s.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: id})
	return err
}

func undrainNode(ctx context.Context, s streamhousev1.ClusterServiceClient, id string) error {
	_, err := s.UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{NodeId: id})
	return err
}

func decommissionNode(ctx context.Context, s streamhousev1.ClusterServiceClient, id string) error {
	_, err := s.DecommissionNode(ctx, &streamhousev1.DecommissionNodeRequest{NodeId: id})
	return err
}

// drained is true when a node holds and leads nothing.
func drained(s statusJSON, id string) bool {
	for _, n := range s.Nodes {
		if n.ID == id {
			return holds(s, id) == 0 && n.Replicas == 0 && n.Leaders == 0
		}
	}
	return true
}

func removed(s statusJSON, id string) bool {
	for _, n := range s.Nodes {
		if n.ID == id {
			return false
		}
	}
	return holds(s, id) == 0
}

// holds returns the number of replicas that groups still have on a node.
func holds(s statusJSON, id string) int {
	n := 0
	for _, sh := range s.Shards {
		for _, r := range sh.Replicas {
			if r.Node == id {
				n++
			}
		}
	}
	return n
}

const statusEvery = 500 * time.Millisecond

// nodeChange is a command that changes a node's state; finished says when the change is done, nil where it is at once.
func (a *app) nodeChange(name, short string, change func(context.Context, streamhousev1.ClusterServiceClient, string) error, finished func(statusJSON, string) bool) *cobra.Command {
	var (
		c    client
		wait bool
	)
	cmd := &cobra.Command{
		Use:   name + " NODE",
		Short: short,
		Args:  exactly("NODE"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				_, err := clusterCall(ctx, p, func(ctx context.Context, s streamhousev1.ClusterServiceClient) (struct{}, error) {
					return struct{}{}, change(ctx, s, args[0])
				})
				if err != nil {
					return err
				}
				if finished == nil {
					a.say("%s: %s", name, args[0])
					return nil
				}
				if !wait {
					a.say("%s of %s has begun; see streamhouse cluster status", name, args[0])
					return nil
				}
				return a.waitStatus(ctx, p, name, args[0], finished)
			})
		}),
	}
	if finished != nil {
		cmd.Flags().BoolVar(&wait, "wait", false, "return when all replicas have moved; see --timeout")
	}
	return c.call(cmd)
}

func (a *app) waitStatus(ctx context.Context, p *remote.Pool, name, id string, finished func(statusJSON, string) bool) error {
	for {
		s, err := getStatus(ctx, p)
		if err == nil && finished(s, id) {
			a.say("%s of %s is done", name, id)
			return nil
		}
		if err != nil && !remote.Retryable(err, remote.Idempotent) {
			return err
		}
		if remote.Wait(ctx, statusEvery) != nil {
			if err == nil {
				err = fmt.Errorf("%d replicas are still on the node", holds(s, id))
			}
			return fmt.Errorf("%s of %s goes on, but was not done in time: %w", name, id, err)
		}
	}
}

func (a *app) transferLeader() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "transfer-leader SHARD NODE",
		Short: "Make a node the leader of a shard of which it has a replica",
		Args:  exactly("SHARD", "NODE"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			shard, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil {
				return errors.New("SHARD " + strconv.Quote(args[0]) + " must be a number")
			}
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				_, err := clusterCall(ctx, p, func(ctx context.Context, s streamhousev1.ClusterServiceClient) (*streamhousev1.TransferLeaderResponse, error) {
					return s.TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: uint32(shard), NodeId: args[1]})
				})
				if err != nil {
					return err
				}
				a.say("shard %d is led by %s", shard, args[1])
				return nil
			})
		}),
	}
	return c.call(cmd)
}
