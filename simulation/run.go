package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/cluster"
	"github.com/streamhouse/streamhouse/simulation/disk"
	"github.com/streamhouse/streamhouse/simulation/history"
)

// Result is what a run did.
type Result struct {
	History *history.History
	// Acked is how many operations were acknowledged, Virtual how long it took on the bubble's clock.
	Acked   int
	Virtual time.Duration
	// Err says that the run could not be ended: the cluster did not come back, or a client did not.
	Err error
}

const (
	// lease is how long a leader that was cut off may go on answering reads: twice Raft's lease.
	lease = time.Second
	// recovery bounds what a healed cluster may take until it serves again.
	recovery = 90 * time.Second
	// shortDelivery makes a producer give up within a fault, longDelivery not.
	shortDelivery = 3 * time.Second
	longDelivery  = 2 * time.Minute
)

// sim is one run.
type sim struct {
	plan  Plan
	flags map[string]string // of the nodes, besides what every simulation sets
	c     *cluster.Cluster
	h     *history.History
	trace *Trace
	apis  []*api
	stop  chan struct{} // closed when the workload is to end
}

// Run runs a plan in the bubble that it is called in; dir takes the nodes' files. It returns when all that it has begun
// has ended.
func Run(plan Plan, dir string, trace *Trace) *Result {
	s := newSim(plan, trace)
	return s.play(dir, s.workAndVerify)
}

func (s *sim) workAndVerify(ctx context.Context) error {
	if err := s.work(ctx); err != nil {
		return err
	}
	return s.verify(ctx)
}

func newSim(plan Plan, trace *Trace) *sim {
	s := &sim{plan: plan, h: history.New(), trace: trace, stop: make(chan struct{})}
	s.h.Lease = lease
	if plan.DamagesObjects() {
		s.flags = scrubbing()
	}
	return s
}

// retain is the flag for how much a node's log keeps.
const retain = "log-retain-bytes"

// scrubbing are the settings of nodes that check their objects all the time, and keep the records for writing them anew.
func scrubbing() map[string]string {
	return map[string]string{"scrub-interval": "2s", "scrub-bytes-per-second": "256MiB", retain: "64MiB"}
}

// readFromObjects gives the nodes time to write damaged objects anew, and has them cut their logs then: what was uploaded is
// read from the object store from now on. The nodes must be scrubbing.
func (s *sim) readFromObjects(ctx context.Context) error {
	if err := pause.For(ctx, recovery); err != nil { // a call that the object store does not answer takes a minute
		return err
	}
	s.trace.Event("run", "the nodes are to cut their logs")
	s.flags[retain], s.flags["checkpoint-bytes"] = "0B", "1KiB"
	crew := newNemesis(s)
	for i := range s.c.Nodes {
		if err := errors.Join(crew.restart(ctx, &Fault{Kind: Restart, Node: i}), s.settleDown(ctx)); err != nil {
			return err
		}
	}
	return pause.For(ctx, 5*time.Second) // checkpoints
}

// play runs a script on a cluster that is whole and has the topic. It returns when all that it has begun has ended.
func (s *sim) play(dir string, script func(context.Context) error) *Result {
	trace := s.trace
	trace.begin(s.h.Leader)
	trace.Event("plan", "%s", s.plan)
	begin := time.Now()
	err := s.run(dir, script)
	if err != nil {
		trace.Event("run", "failed: %v", err)
	}
	took := time.Since(begin)
	// Time stops with the caller: what memberlist and gRPC leave behind ends by its time-outs before.
	_ = pause.For(context.Background(), time.Minute)
	trace.finish()
	return &Result{History: s.h, Acked: s.h.Acked(), Virtual: took, Err: err}
}

// rand returns the choices of one part of the run.
func (s *sim) rand(part uint64) *rand.Rand { return rand.New(rand.NewPCG(s.plan.Seed, 1000+part)) }

func (s *sim) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

func (s *sim) run(dir string, script func(context.Context) error) (err error) {
	cfg := cluster.Config{Dir: dir, Nodes: nodes, Seed: s.plan.Seed, Logs: s.trace.logs, Flags: s.flags}
	if s.c, err = cluster.Start(context.Background(), cfg); err != nil {
		return err
	}
	defer func() {
		for _, a := range s.apis {
			err = errors.Join(err, a.conn.Close())
		}
		if cerr := s.c.Close(); cerr != nil {
			s.trace.Event("run", "the cluster did not stop well: %v", cerr)
		}
	}()
	for i, n := range s.c.Nodes {
		a, err := newAPI(s.c, n, 10+i)
		if err != nil {
			return err
		}
		s.apis = append(s.apis, a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	return script(ctx)
}

// prepare waits until the cluster is whole and has the topic.
func (s *sim) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	if err := s.c.WaitReady(ctx); err != nil {
		return fmt.Errorf("the cluster does not begin: %w", err)
	}
	if err := until(ctx, func(ctx context.Context) error { return s.whole(ctx, s.apis[0]) }); err != nil {
		return fmt.Errorf("the cluster does not become whole: %w", err)
	}
	_, err := s.apis[0].CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: topic, Partitions: partitions})
	if err != nil {
		return fmt.Errorf("create the topic: %w", err)
	}
	s.trace.Event("run", "the cluster is whole")
	return nil
}

// whole returns nil when every shard has a leader and all its replicas.
func (s *sim) whole(ctx context.Context, a *api) error {
	resp, err := a.cluster.GetClusterStatus(ctx, &streamhousev1.GetClusterStatusRequest{})
	if err != nil {
		return err
	}
	if len(resp.GetShards()) == 0 {
		return errors.New("no shards yet")
	}
	for _, sh := range resp.GetShards() {
		voters := 0
		for _, r := range sh.GetReplicas() {
			if r.GetRole() == "voter" {
				voters++
			}
		}
		if voters != nodes || len(sh.GetReplicas()) != nodes || sh.GetLeader() == "" {
			return fmt.Errorf("shard %d has leader %q, %d replicas and %d voters", sh.GetShard(), sh.GetLeader(), len(sh.GetReplicas()), voters)
		}
	}
	return nil
}

// work runs the workload with the faults of the plan, heals, and waits until the clients have ended.
func (s *sim) work(ctx context.Context) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	run := func(name string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	run("producer a", func() error { return s.produce(ctx, "a", 20, longDelivery) })
	run("producer b", func() error { return s.produce(ctx, "b", 21, shortDelivery) })
	run("bare producer", func() error { s.produceBare(ctx, s.apis[s.plan.Seed%nodes], 22); return nil })
	for i, a := range s.apis {
		run("reader "+a.node, func() error { s.read(ctx, a, 30+i); return nil })
	}
	run("member m1", func() error { return s.consume(ctx, "m1", 40) })
	run("member m2", func() error { return s.consume(ctx, "m2", 41) })
	run("offsets", func() error { s.watchOffsets(ctx, s.apis); return nil })
	run("topics 1", func() error { s.changeTopics(ctx, s.apis[0], 50); return nil })
	run("topics 2", func() error { s.changeTopics(ctx, s.apis[1+s.plan.Seed%2], 51); return nil })

	begin := time.Now()
	err := newNemesis(s).run(ctx, s.plan.Faults)
	if err == nil {
		err = s.heal(ctx)
	}
	for err == nil && (time.Since(begin) < s.plan.Lasts || s.h.Acked() < leastAcked) {
		if time.Since(begin) > s.plan.Lasts+recovery {
			err = fmt.Errorf("the cluster is healed, and only %d operations are acknowledged", s.h.Acked())
			break
		}
		_ = pause.For(ctx, 100*time.Millisecond)
	}
	close(s.stop)
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

// start starts a node that is down; one that ended by itself is started, too, when it is healed.
func (s *sim) start(ctx context.Context, n *cluster.Node) error {
	if n.Up() {
		return nil // another fault has started it
	}
	if err := n.Start(ctx); err != nil && !n.Up() {
		return fmt.Errorf("start %s: %w", n.ID, err)
	}
	s.h.Restarted(n.ID)
	s.trace.Event(n.ID, "is started")
	return nil
}

// heal ends all faults, starts what is down, and waits until the cluster serves again.
func (s *sim) heal(ctx context.Context) error {
	s.c.Net.Heal()
	s.c.Bucket.Set(cluster.HealthyBucket)
	s.trace.Event("run", "all faults are healed")
	return s.settleDown(ctx)
}

// errDoesNotComeBack says that a cluster that was healed does not serve again.
var errDoesNotComeBack = errors.New("the cluster is healed and does not come back")

// settleDown starts what is down and waits until the cluster serves again.
func (s *sim) settleDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	err := until(ctx, func(ctx context.Context) error {
		for _, n := range s.c.Nodes {
			if ended, err := n.Ended(); ended {
				s.trace.Event(n.ID, "had ended: %v", err)
			}
			if err := s.start(ctx, n); err != nil {
				return err
			}
			n.SetDisk(cluster.HealthyDisk)
		}
		ready, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		return errors.Join(s.c.WaitReady(ready), s.whole(ctx, s.apis[0]))
	})
	if err != nil {
		return fmt.Errorf("%w within %s: %w", errDoesNotComeBack, recovery, err)
	}
	s.trace.Event("run", "the cluster is whole again")
	return nil
}

// verify reads everything back through every node, at once and when it is uploaded.
func (s *sim) verify(ctx context.Context) error {
	if s.plan.DamagesObjects() {
		if err := s.readFromObjects(ctx); err != nil {
			return err
		}
	}
	if s.plan.PowerCutAtEnd {
		n := newNemesis(s)
		for _, nd := range s.c.Nodes {
			if err := n.takeDown(nd, disk.All); err != nil {
				return err
			}
		}
		if err := s.settleDown(ctx); err != nil {
			return err
		}
	}
	for round := range 2 {
		if round > 0 {
			if err := pause.For(ctx, 8*time.Second); err != nil { // several upload intervals
				return err
			}
		}
		back, cancel := context.WithTimeout(ctx, recovery)
		for _, a := range s.apis {
			if err := s.readBack(back, a); err != nil {
				cancel()
				return fmt.Errorf("read back: %w", err)
			}
			if err := until(back, func(ctx context.Context) error { return s.committed(ctx, a) }); err != nil {
				cancel()
				return fmt.Errorf("committed offsets through %s: %w", a.node, err)
			}
		}
		cancel()
	}
	return nil
}
