package broker

import (
	"context"
	"slices"
	"time"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
)

const (
	// lagTimeout bounds a question to another node at a scrape.
	lagTimeout = 500 * time.Millisecond
	// lagsTimeout bounds all the questions of a scrape together.
	lagsTimeout = 2 * time.Second
	// lagCatchUp is for how long a scrape waits until this node's replica has applied what its leader had when it was asked:
	// under load a replica lacks what is on the way. lagCatchUpTick is how often it looks.
	lagCatchUp     = 100 * time.Millisecond
	lagCatchUpTick = 5 * time.Millisecond
)

// scrapedReplica is what a scrape needs of this node's replica of a shard. *shard.Shard is one. No method blocks.
type scrapedReplica interface {
	// Leader returns the replica id of the shard's leader.
	Leader() (replicaID string, ok bool)
	// LeaderHighWatermark returns a partition's high watermark on the leader, and else an error.
	LeaderHighWatermark(partitionID uint64) (int64, error)
	// HighWatermark returns a partition's high watermark as applied here.
	HighWatermark(partitionID uint64) int64
	// AppliedIndex returns the last Raft index that is applied here.
	AppliedIndex() uint64
}

// scrapedMarks are the high watermarks that one scrape needs. Each is looked for once, however many groups read the
// partition, and a node that does not answer in time is not asked again: it would cost the whole scrape. It is not safe for
// concurrent use.
type scrapedMarks struct {
	cfg   ShardsConfig
	view  *fsm.View
	local func(shard uint32) (scrapedReplica, bool)
	told  *watermarks // at this scrape and those before

	found   map[uint64]scrapedMark // by partition
	current map[uint32]bool        // whether this node's replicas are, by shard
	silent  map[string]bool        // nodes that did not answer in time
}

// scrapedMark is what came of the search for a high watermark.
type scrapedMark struct {
	mark  int64
	known bool
}

func newScrapedMarks(s *Shards, told *watermarks) *scrapedMarks {
	return &scrapedMarks{
		cfg: s.cfg, view: s.cfg.Metadata.View(), told: told,
		local: func(number uint32) (scrapedReplica, bool) {
			sh, ok := s.Get(number)
			return sh, ok
		},
		found: make(map[uint64]scrapedMark), current: make(map[uint32]bool), silent: make(map[string]bool),
	}
}

// get returns a partition's high watermark. Where the leader can't be asked it is the largest that is known, if this node has
// a replica: a group has that much to read at least.
func (m *scrapedMarks) get(ctx context.Context, p *fsm.Partition) (int64, bool) {
	at, ok := m.found[p.ID]
	if !ok {
		if at.mark, at.known = m.find(ctx, p); at.known {
			at.mark = m.told.told(p.ID, max(at.mark, p.UploadedEnd))
		}
		m.found[p.ID] = at
	}
	return at.mark, at.known
}

// find asks no other node where this one leads, and one question for all partitions of a shard where it has all that the
// leader has. A replica may be far behind, and one that was just made has nothing.
func (m *scrapedMarks) find(ctx context.Context, p *fsm.Partition) (int64, bool) {
	local, here := m.local(p.Shard)
	if !here {
		return m.ask(ctx, p, "")
	}
	if mark, err := local.LeaderHighWatermark(p.ID); err == nil {
		return mark, true
	}
	id, _ := local.Leader()
	leader := fsm.NodeOf(id)
	current, ok := m.current[p.Shard]
	if !ok {
		current = m.isCurrent(ctx, p.Shard, local, leader)
		m.current[p.Shard] = current
	}
	if !current {
		if mark, ok := m.ask(ctx, p, leader); ok {
			return mark, true
		}
	}
	return local.HighWatermark(p.ID), true
}

// isCurrent reports whether this node's replica has, in a moment, all that the shard's leader had applied when it was asked.
func (m *scrapedMarks) isCurrent(ctx context.Context, number uint32, local scrapedReplica, leader string) bool {
	var res *nodev1.GetReplicaResponse
	answered := m.call(ctx, leader, func(ctx context.Context, client nodev1.NodeServiceClient) (err error) {
		res, err = client.GetReplica(ctx, &nodev1.GetReplicaRequest{Group: &nodev1.Group{Shard: number}})
		return err
	})
	if !answered || !replica.Leads(res) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lagCatchUp)
	defer cancel()
	for local.AppliedIndex() < res.GetAppliedIndex() {
		if pause.For(ctx, lagCatchUpTick) != nil {
			return false
		}
	}
	return true
}

// ask asks the nodes with a replica for the high watermark, the one that is said to lead first: the leader answers.
func (m *scrapedMarks) ask(ctx context.Context, p *fsm.Partition, leader string) (mark int64, ok bool) {
	sh, ok := m.view.Shard(p.Shard)
	if !ok {
		return 0, false
	}
	nodes := []string{leader}
	for _, r := range sh.Replicas {
		if node := r.GetNodeId(); node != m.cfg.NodeID && !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	for _, node := range nodes {
		answered := m.call(ctx, node, func(ctx context.Context, client nodev1.NodeServiceClient) error {
			res, err := client.GetHighWatermark(ctx, &nodev1.GetHighWatermarkRequest{Shard: p.Shard, PartitionId: p.ID})
			mark = res.GetHighWatermark()
			return err
		})
		if answered {
			return mark, true
		}
	}
	return 0, false
}

// call asks another node, and reports whether it answered.
func (m *scrapedMarks) call(ctx context.Context, node string, question func(context.Context, nodev1.NodeServiceClient) error) bool {
	if node == "" || node == m.cfg.NodeID || m.silent[node] || ctx.Err() != nil {
		return false
	}
	client, err := m.cfg.Peers.Client(node)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lagTimeout)
	defer cancel()
	if err := question(ctx, client); err != nil {
		m.silent[node] = ctx.Err() != nil
		return false
	}
	return true
}
