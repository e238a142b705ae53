package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/cluster"
	"github.com/streamhouse/streamhouse/simulation/disk"
	"github.com/streamhouse/streamhouse/simulation/wire"
)

// scene is a run whose workload and faults are a script, in a fixed order. Each walks into one trap, or would find one bug:
// tools/mutate plants it and sees that the script's test fails.
type scene struct {
	*sim
	crew  *nemesis
	wrote int
}

// scriptHost is the first host of a script's clients.
const scriptHost = 60

// act runs a script on a cluster of three nodes with one shard. Then all faults are healed, everything is read back
// through every node, and the test fails with what the checkers find.
func act(t *testing.T, script func(ctx context.Context, s *scene) error) {
	t.Helper()
	actWith(t, map[string]string{"shards": "1"}, script)
}

// actWith is act with these settings of the nodes.
func actWith(t *testing.T, flags map[string]string, script func(ctx context.Context, s *scene) error) {
	t.Helper()
	t.Parallel()
	hold(t, t.Name(), "script: "+t.Name(), new(orders), func(dir string, trace *Trace) *Result {
		s := &scene{sim: newSim(Plan{Seed: 1}, trace)}
		s.flags = flags
		s.crew = newNemesis(s.sim)
		return s.play(dir, func(ctx context.Context) error {
			if err := script(ctx, s); err != nil {
				return fmt.Errorf("the script can't go on: %w", err)
			}
			if err := s.heal(ctx); err != nil {
				return err
			}
			return s.verify(ctx)
		})
	})
}

// roles are nodes by what they do, from 0.
type roles struct{ leader, metadata, third int }

// roles parts the shard's leader from that of the metadata, and returns who they are.
func (s *scene) roles(ctx context.Context) (r roles, err error) {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	err = until(ctx, func(ctx context.Context) error {
		status, err := s.apis[0].cluster.GetClusterStatus(ctx, &streamhousev1.GetClusterStatusRequest{})
		if err != nil {
			return err
		}
		r.leader, r.metadata = s.number(status.GetShards()[0].GetLeader()), s.number(status.GetMetadataLeader())
		switch {
		case r.leader < 0 || r.metadata < 0:
			return errors.New("there is no leader")
		case r.leader == r.metadata:
			return errors.Join(s.moveTo(ctx, (r.leader+1)%nodes), errors.New("one node leads both"))
		}
		r.third = nodes - r.leader - r.metadata
		return nil
	})
	s.trace.Event("script", "%+v", r)
	return r, err
}

// number is the number of the node with an id, or of a replica's node; -1 where there is none.
func (s *scene) number(id string) int {
	id, _, _ = strings.Cut(id, "/")
	return slices.IndexFunc(s.c.Nodes, func(n *cluster.Node) bool { return n.ID == id })
}

// moveTo hands the shard's leadership over.
func (s *scene) moveTo(ctx context.Context, to int) error {
	s.trace.Event("script", "leadership of the shard goes to %s", s.c.Nodes[to].ID)
	_, err := s.apis[to].cluster.TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{NodeId: s.c.Nodes[to].ID})
	return err
}

// link changes how one node reaches another, or a client's host, and not the way back.
func (s *scene) link(from int, to string, l wire.Link) {
	s.trace.Event("script", "%s reaches %s by %+v", s.c.Nodes[from].ID, to, l)
	s.c.Net.Set(s.c.Nodes[from].IP, to, l)
}

// split cuts two nodes off from each other.
func (s *scene) split(a, b int) {
	s.link(a, s.c.Nodes[b].IP, wire.Link{Cut: true})
	s.link(b, s.c.Nodes[a].IP, wire.Link{Cut: true})
}

// values makes the values of a batch, and a name for who writes it.
func (s *scene) values(records, bytesEach int) (name string, values []string) {
	s.wrote++
	name = fmt.Sprintf("script-%d", s.wrote)
	for i := range records {
		head := fmt.Sprintf("%s/%d/", name, i)
		values = append(values, head+strings.Repeat("x", max(bytesEach-len(head), 0)))
	}
	return name, values
}

// write writes a batch to partition 0 through a node, with one call.
func (s *scene) write(ctx context.Context, through, records, bytesEach int) ([]string, error) {
	name, values := s.values(records, bytesEach)
	return values, s.produceOnce(ctx, s.apis[through], name, 0, values, callTimeout)
}

// fill writes so much through a node that it is uploaded and every replica cuts its log: what was written before is read
// from the object store then.
func (s *scene) fill(ctx context.Context, through int) error {
	for range 3 {
		for range 12 {
			if _, err := s.write(ctx, through, 4, 2000); err != nil {
				return err
			}
		}
		if err := pause.For(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// applied waits until every replica has applied all that is committed.
func (s *scene) applied(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	return until(ctx, func(ctx context.Context) error {
		status, err := s.apis[0].cluster.GetClusterStatus(ctx, &streamhousev1.GetClusterStatusRequest{})
		if err != nil {
			return err
		}
		shard := status.GetShards()[0]
		for _, r := range shard.GetReplicas() {
			if r.GetAppliedIndex() < shard.GetCommitIndex() {
				return fmt.Errorf("replica %s has applied %d of %d entries", r.GetReplicaId(), r.GetAppliedIndex(), shard.GetCommitIndex())
			}
		}
		return nil
	})
}

// readBackFrom reads what all nodes have of partition 0 from an offset on.
func (s *scene) readBackFrom(ctx context.Context, from int64) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	for _, a := range s.apis {
		ends, err := s.offsets(ctx, a, &streamhousev1.ListOffsetsRequest{Topic: topic, Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true}})
		if err != nil {
			return err
		}
		list, err := s.readAll(ctx, a, 0, from, ends[0])
		s.h.ReadBack(a.node, part(0), from, ends[0], list)
		if err != nil {
			return fmt.Errorf("through %s: %w", a.node, err)
		}
	}
	return nil
}

// powerCut takes the power of all nodes at once.
func (s *scene) powerCut() error {
	var errs []error
	for _, n := range s.c.Nodes {
		errs = append(errs, s.crew.takeDown(n, disk.All))
	}
	return errors.Join(errs...)
}

// uploaded waits until there are more objects with records than before.
func (s *scene) uploaded(ctx context.Context, before int) error {
	for {
		if n, err := s.objects(ctx); err != nil || n > before {
			return err
		}
		if err := pause.For(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// objects is how many objects there are with records.
func (s *scene) objects(ctx context.Context) (int, error) {
	names, err := s.c.Bucket.Names(ctx, ".seg")
	return len(names), err
}

// within waits for what a node is to log.
func within(ctx context.Context, d time.Duration, said <-chan struct{}) error {
	select {
	case <-said:
		return nil
	case <-time.After(d):
		return fmt.Errorf("a node has not logged what was expected within %s", d)
	case <-ctx.Done():
		return ctx.Err()
	}
}
