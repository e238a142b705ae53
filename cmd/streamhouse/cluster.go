package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
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
	Replicas     int    `json:"replicas"`
	Leaders      int    `json:"leaders"`
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

func newStatusJSON(c client.Cluster) statusJSON {
	s := statusJSON{
		ClusterID: c.ID, ClusterName: c.Name, ObjectStore: c.ObjectStore, AnsweredBy: c.AskedNode, MetadataLeader: c.MetadataLeader,
		Nodes: []nodeJSON{}, Shards: []shardJSON{},
	}
	for _, n := range c.Nodes {
		s.Nodes = append(s.Nodes, nodeJSON{
			ID: n.ID, Zone: n.Zone, State: string(n.State), Alive: n.Alive, MetadataRole: n.MetadataRole,
			GRPCAddr: n.GRPCAddr, HTTPAddr: n.HTTPAddr, RaftAddr: n.RaftAddr, Replicas: n.Replicas, Leaders: n.Leaders,
		})
	}
	for _, sh := range c.Shards {
		j := shardJSON{
			Shard: sh.Number, Leader: sh.Leader, Term: sh.Term, CommitIndex: sh.CommitIndex,
			UploadBacklogBytes: sh.UploadBacklogBytes, LogBytes: sh.LogBytes, Replicas: []replicaJSON{},
		}
		for _, r := range sh.Replicas {
			j.Replicas = append(j.Replicas, replicaJSON{ID: r.ID, Node: r.Node, Role: r.Role, AppliedIndex: r.AppliedIndex})
		}
		s.Shards = append(s.Shards, j)
	}
	return s
}

func (a *app) clusterCommand() *cobra.Command {
	return group("cluster", "Show and change who is in the cluster",
		a.clusterStatus(),
		a.nodeChange("drain", "Move replicas and leaderships off a node, and put no new ones there", (*client.Admin).DrainNode, drained),
		a.nodeChange("undrain", "Let a drained node take replicas again", (*client.Admin).UndrainNode, nil),
		a.nodeChange("decommission", "Drain a node and remove it from the cluster", (*client.Admin).DecommissionNode, removed),
		a.transferLeader(),
	)
}

func (a *app) clusterStatus() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes and shards",
		Args:  exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				cluster, err := admin.ClusterStatus(ctx)
				if err != nil {
					return err
				}
				s := newStatusJSON(cluster)
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

// drained is true when a node holds and leads nothing.
func drained(c client.Cluster, id string) bool {
	for _, n := range c.Nodes {
		if n.ID == id {
			return holds(c, id) == 0 && n.Replicas == 0 && n.Leaders == 0
		}
	}
	return true
}

func removed(c client.Cluster, id string) bool {
	for _, n := range c.Nodes {
		if n.ID == id {
			return false
		}
	}
	return holds(c, id) == 0
}

// holds returns the number of replicas that groups still have on a node.
func holds(c client.Cluster, id string) int {
	n := 0
	for _, sh := range c.Shards {
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
func (a *app) nodeChange(name, short string, change func(*client.Admin, context.Context, string) error, finished func(client.Cluster, string) bool) *cobra.Command {
	var (
		c    connection
		wait bool
	)
	cmd := &cobra.Command{
		Use:   name + " NODE",
		Short: short,
		Args:  exactly("NODE"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				if err := change(admin, ctx, args[0]); err != nil {
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
				return a.waitStatus(ctx, admin, name, args[0], finished)
			})
		}),
	}
	if finished != nil {
		cmd.Flags().BoolVar(&wait, "wait", false, "return when all replicas have moved; see --timeout")
	}
	return c.call(cmd)
}

func (a *app) waitStatus(ctx context.Context, admin *client.Admin, name, id string, finished func(client.Cluster, string) bool) error {
	for {
		c, err := admin.ClusterStatus(ctx)
		if err == nil && finished(c, id) {
			a.say("%s of %s is done", name, id)
			return nil
		}
		if err != nil && !unavailable(err) {
			return err
		}
		if pause(ctx, statusEvery) != nil {
			if err == nil {
				err = fmt.Errorf("%d replicas are still on the node", holds(c, id))
			}
			return fmt.Errorf("%s of %s goes on, but was not done in time: %w", name, id, err)
		}
	}
}

func (a *app) transferLeader() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "transfer-leader SHARD NODE",
		Short: "Make a node the leader of a shard of which it has a replica",
		Args:  exactly("SHARD", "NODE"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			shard, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil {
				return errors.New("SHARD " + strconv.Quote(args[0]) + " must be a number")
			}
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				if err := admin.TransferLeader(ctx, uint32(shard), args[1]); err != nil {
					return err
				}
				a.say("shard %d is led by %s", shard, args[1])
				return nil
			})
		}),
	}
	return c.call(cmd)
}
