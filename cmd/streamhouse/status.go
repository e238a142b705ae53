package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/health"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/internal/pause"
)

// catchUp is how long a replica may take to apply what was committed before it counts as behind, as the controller has it.
const catchUp = 500 * time.Millisecond

// statusJSON and what is in it are what -o json prints: the names do not change.
type statusJSON struct {
	ClusterID      string      `json:"cluster_id"`
	ClusterName    string      `json:"cluster_name"`
	ObjectStore    string      `json:"object_store"`
	AnsweredBy     string      `json:"answered_by"`
	MetadataLeader string      `json:"metadata_leader"`
	Health         healthJSON  `json:"health"`
	Nodes          []nodeJSON  `json:"nodes"`
	Shards         []shardJSON `json:"shards"`
}

type healthJSON struct {
	// State is ok, degraded or unavailable.
	State              health.State `json:"state"`
	Metadata           quorumJSON   `json:"metadata"`
	Shards             int          `json:"shards"`
	ShardsWithout      []uint32     `json:"shards_without_leader"`
	ReplicasBehind     []behindJSON `json:"replicas_behind"`
	UploadBacklogBytes int64        `json:"upload_backlog_bytes"`
}

type quorumJSON struct {
	Voters  int `json:"voters"`
	Alive   int `json:"voters_alive"`
	Quorum  int `json:"quorum"`
	MayStop int `json:"may_stop"`
}

type behindJSON struct {
	Shard     uint32 `json:"shard"`
	Node      string `json:"node"`
	Role      string `json:"role"`
	Answers   bool   `json:"answers"`
	Applied   uint64 `json:"applied_index"`
	Committed uint64 `json:"committed_index"`
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
	// Stop is what would become unavailable if the node stopped now.
	Stop lossJSON `json:"unavailable_if_stopped"`
}

type lossJSON struct {
	Metadata bool     `json:"metadata_group"`
	Shards   []uint32 `json:"shards"`
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

func newStatusJSON(c client.Cluster, r health.Report) statusJSON {
	s := statusJSON{
		ClusterID: c.ID, ClusterName: c.Name, ObjectStore: c.ObjectStore, AnsweredBy: c.AskedNode, MetadataLeader: c.MetadataLeader,
		Health: newHealthJSON(r, len(c.Shards)), Nodes: []nodeJSON{}, Shards: []shardJSON{},
	}
	for _, n := range c.Nodes {
		stop := r.Stops[n.ID]
		s.Nodes = append(s.Nodes, nodeJSON{
			ID: n.ID, Zone: n.Zone, State: string(n.State), Alive: n.Alive, MetadataRole: n.MetadataRole,
			GRPCAddr: n.GRPCAddr, HTTPAddr: n.HTTPAddr, RaftAddr: n.RaftAddr, Replicas: n.Replicas, Leaders: n.Leaders,
			Stop: lossJSON{Metadata: stop.Metadata, Shards: append([]uint32{}, stop.Shards...)},
		})
	}
	for _, sh := range c.Shards {
		j := shardJSON{
			Shard: sh.Number, Leader: sh.Leader, Term: sh.Term, CommitIndex: sh.CommitIndex,
			UploadBacklogBytes: sh.UploadBacklogBytes, LogBytes: sh.LogBytes, Replicas: []replicaJSON{},
		}
		for _, p := range sh.Replicas {
			j.Replicas = append(j.Replicas, replicaJSON{ID: p.ID, Node: p.Node, Role: p.Role, AppliedIndex: p.AppliedIndex})
		}
		s.Shards = append(s.Shards, j)
	}
	return s
}

func newHealthJSON(r health.Report, shards int) healthJSON {
	m := r.Metadata
	j := healthJSON{
		State: r.State, Metadata: quorumJSON{Voters: m.Voters, Alive: m.Alive, Quorum: m.Quorum, MayStop: m.MayStop()}, Shards: shards,
		ShardsWithout: append([]uint32{}, r.Leaderless...), ReplicasBehind: []behindJSON{}, UploadBacklogBytes: r.UploadBacklogBytes,
	}
	for _, b := range r.Behind {
		j.ReplicasBehind = append(j.ReplicasBehind, behindJSON{
			Shard: b.Shard, Node: b.Node, Role: b.Role, Answers: b.Answers(), Applied: b.Applied, Committed: b.Committed,
		})
	}
	return j
}

func (a *app) clusterStatus() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show at a glance how the cluster is, its nodes and its shards",
		Long: `Show how the cluster is: who leads, what has no leader, which replicas are behind, and
for each node what would become unavailable if it stopped now.

The cluster is "ok", "degraded" (everything works, something is missing), or
"unavailable" (something can't be written to). A replica is behind that has not applied
within half a second what its shard had committed.`,
		Example: `  streamhouse cluster status
  streamhouse cluster status -o json | jq -r .health.state`,
		Args: exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				cluster, report, err := assess(ctx, admin)
				if err != nil {
					return err
				}
				if c.format == output.Table {
					return a.writeStatus(cluster, report)
				}
				ids := make([]string, 0, len(cluster.Nodes))
				for _, n := range cluster.Nodes {
					ids = append(ids, n.ID)
				}
				return output.Write(a.stdout, c.format, newStatusJSON(cluster, report), nil, ids)
			})
		}),
	}
	return c.call(cmd)
}

// assess looks at the cluster, and once more where something seems to be behind: followers always hear a little later.
func assess(ctx context.Context, admin *client.Admin) (client.Cluster, health.Report, error) {
	c, err := admin.ClusterStatus(ctx)
	if err != nil {
		return c, health.Report{}, err
	}
	committed := health.CommitsOf(c)
	r := health.Assess(c, committed)
	if len(r.Behind) == 0 {
		return c, r, nil
	}
	if err := pause.For(ctx, catchUp); err != nil {
		return c, r, err
	}
	if c, err = admin.ClusterStatus(ctx); err != nil {
		return c, r, err
	}
	return c, health.Assess(c, committed), nil
}

func (a *app) writeStatus(c client.Cluster, r health.Report) error {
	head := &output.Rows{Titles: []string{"Cluster", fmt.Sprintf("%s, %s, id %s", c.Name, a.healthText(r.State), c.ID)}, Style: a.style}
	head.Add("Metadata", a.metadataText(r.Metadata))
	head.Add("Shards", a.shardsText(len(c.Shards), r.Leaderless))
	head.Add("Behind", a.behindText(r.Behind))
	head.Add("Not uploaded", fmt.Sprintf("%s, to %s", output.Bytes(r.UploadBacklogBytes), c.ObjectStore))
	for _, t := range []*output.Rows{head, a.nodeRows(c, r), a.shardRows(c, r)} {
		if t != head {
			if _, err := fmt.Fprintln(a.stdout); err != nil {
				return err
			}
		}
		if _, err := t.WriteTo(a.stdout); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) healthText(s health.State) string {
	switch s {
	case health.OK:
		return a.style.Good(string(s))
	case health.Degraded:
		return a.style.Warn(string(s))
	default:
		return a.style.Bad(string(s))
	}
}

func (a *app) metadataText(m health.Metadata) string {
	led := a.style.Bad("no leader")
	if m.Leader != "" {
		led = "led by " + m.Leader
	}
	alive := fmt.Sprintf("%d of %d voters alive", m.Alive, m.Voters)
	switch may := m.MayStop(); {
	case m.Alive < m.Quorum:
		return led + ", " + a.style.Bad(fmt.Sprintf("%s, %d are needed", alive, m.Quorum))
	case may == 0:
		return led + ", " + a.style.Warn(alive+", none may stop")
	default:
		return fmt.Sprintf("%s, %s, %d may stop", led, alive, may)
	}
}

func (a *app) shardsText(shards int, without []uint32) string {
	if len(without) == 0 {
		return fmt.Sprintf("%d, %s", shards, a.style.Good("all led"))
	}
	return fmt.Sprintf("%d, %s", shards, a.style.Bad("no leader for "+shardNames(without)))
}

// maxBehind is how many replicas the summary names.
const maxBehind = 6

// behindText names nodes that do not answer with their shards, and how far others are behind.
func (a *app) behindText(list []health.Replica) string {
	if len(list) == 0 {
		return a.style.Good("no replica")
	}
	silent := make(map[string][]uint32)
	var lag []string
	for _, b := range list {
		switch {
		case !b.Answers():
			silent[b.Node] = append(silent[b.Node], b.Shard)
		case b.Applied >= b.Committed:
			lag = append(lag, fmt.Sprintf("%s in shard %d is not alive", b.Node, b.Shard))
		default:
			lag = append(lag, fmt.Sprintf("%s in shard %d by %d entries", b.Node, b.Shard, b.Committed-b.Applied))
		}
	}
	var parts []string
	for _, node := range slices.Sorted(maps.Keys(silent)) {
		parts = append(parts, fmt.Sprintf("%s does not answer in %s", node, shardNames(silent[node])))
	}
	parts = append(parts, lag...)
	if n := len(parts); n > maxBehind {
		parts = append(parts[:maxBehind], fmt.Sprintf("and %d more", n-maxBehind))
	}
	return a.style.Bad(strings.Join(parts, "; "))
}

// shardNames is such as "shards 0, 3-5".
func shardNames(shards []uint32) string {
	if len(shards) == 1 {
		return fmt.Sprintf("shard %d", shards[0])
	}
	return "shards " + strings.ReplaceAll(numberRanges(shards), ",", ", ")
}

func (a *app) lossText(n client.Node, l health.Loss) string {
	switch {
	case !n.Alive:
		return ""
	case l.None():
		return "nothing"
	case !l.Metadata:
		return a.style.Warn(shardNames(l.Shards))
	case len(l.Shards) == 0:
		return a.style.Warn("metadata group")
	default:
		return a.style.Warn("metadata group, " + shardNames(l.Shards))
	}
}

func (a *app) nodeRows(c client.Cluster, r health.Report) *output.Rows {
	rows := a.rows("NODE", "STATE", "ALIVE", "ZONE", "METADATA", "REPLICAS", "LEADERS", "GOES DOWN WITH IT", "GRPC", "HTTP", "RAFT")
	for _, n := range c.Nodes {
		role := n.MetadataRole
		if n.ID == c.MetadataLeader {
			role = "leader"
		}
		alive, state := a.style.Good("yes"), string(n.State)
		if !n.Alive {
			alive = a.style.Bad("no")
		}
		if n.State != client.NodeActive {
			state = a.style.Warn(state)
		}
		rows.Add(n.ID, state, alive, n.Zone, role, n.Replicas, n.Leaders, a.lossText(n, r.Stops[n.ID]), n.GRPCAddr, n.HTTPAddr, n.RaftAddr)
	}
	return rows
}

func (a *app) shardRows(c client.Cluster, r health.Report) *output.Rows {
	rows := a.rows("SHARD", "LEADER", "TERM", "COMMITTED", "LOG", "NOT UPLOADED", "REPLICAS (APPLIED)")
	behind := make(map[string]bool)
	for _, b := range r.Behind {
		behind[fmt.Sprint(b.Shard, "/", b.Node)] = true
	}
	for _, sh := range c.Shards {
		var replicas []string
		for _, p := range sh.Replicas {
			text := fmt.Sprintf("%s (%d)", p.Node, p.AppliedIndex)
			if p.Role != client.RoleVoter {
				text = fmt.Sprintf("%s (%d, %s)", p.Node, p.AppliedIndex, p.Role)
			}
			if behind[fmt.Sprint(sh.Number, "/", p.Node)] {
				text = a.style.Bad(text)
			}
			replicas = append(replicas, text)
		}
		rows.Add(sh.Number, a.leaderText(sh.Leader), sh.Term, sh.CommitIndex, output.Bytes(sh.LogBytes), output.Bytes(sh.UploadBacklogBytes), strings.Join(replicas, ", "))
	}
	return rows
}

// leaderText is a node, or that there is none.
func (a *app) leaderText(node string) string {
	if node == "" {
		return a.style.Bad("none")
	}
	return node
}
