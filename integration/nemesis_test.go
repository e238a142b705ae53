package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// envSeed repeats the choices of a run of TestNemesis or TestFaults.
const envSeed = "STREAMHOUSE_SEED"

// nemesis does harm to a cluster, chosen by chance: up to three things at a time, with quiet times in between.
type nemesis struct {
	t   *testing.T
	c   *harness.Cluster
	rnd *rand.Rand
	// kinds make harms, by name.
	kinds map[string]func() choice
	done  map[string]int // how often each kind was done
}

// choice is a harm and what it is about: nothing is harmed by two at a time.
type choice struct {
	harm    harness.Harm
	subject string
}

func newNemesis(t *testing.T, c *harness.Cluster) *nemesis {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(envSeed); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%s=%d", envSeed, seed)
	n := &nemesis{t: t, c: c, rnd: rand.New(rand.NewPCG(seed, seed)), done: make(map[string]int)}
	n.kinds = map[string]func() choice{
		"kill": func() choice {
			return n.about(func(v *harness.Node) harness.Harm { return &harness.Kill{Nodes: []*harness.Node{v}} })
		},
		"kill all":          func() choice { return choice{&harness.Kill{Nodes: c.Running()}, everything} },
		"pause":             func() choice { return n.about(func(v *harness.Node) harness.Harm { return &harness.Pause{Node: v} }) },
		"restart":           func() choice { return n.about(func(v *harness.Node) harness.Harm { return &harness.Restart{Node: v} }) },
		"crash in recovery": func() choice { return n.about(n.crashInRecovery) },
		"transfer":          func() choice { return choice{&transfer{n}, "leaders"} },
		"drain": func() choice {
			return n.about(func(v *harness.Node) harness.Harm { return &harness.Drain{Cluster: c, Node: v} })
		},
		"S3": func() choice { return choice{&harness.BadS3{Proxy: c.Proxy, Fault: n.badS3()}, "S3"} },
	}
	return n
}

// everything is what a harm is about that leaves nothing for others.
const everything = "everything"

// node returns one by chance.
func (n *nemesis) node() *harness.Node { return n.c.Nodes[n.rnd.IntN(len(n.c.Nodes))] }

// about chooses a node for a harm.
func (n *nemesis) about(f func(*harness.Node) harness.Harm) choice {
	v := n.node()
	return choice{f(v), v.ID}
}

// upTo returns a time by chance.
func (n *nemesis) upTo(d time.Duration) time.Duration { return time.Duration(n.rnd.Int64N(int64(d))) }

func (n *nemesis) crashInRecovery(v *harness.Node) harness.Harm {
	times := make([]time.Duration, 1+n.rnd.IntN(4))
	for i := range times {
		times[i] = n.upTo(700 * time.Millisecond)
	}
	return &harness.CrashInRecovery{Node: v, Times: times}
}

func (n *nemesis) badS3() harness.Fault {
	put := []string{http.MethodPut}
	faults := []harness.Fault{
		{Drop: true},
		{Methods: put, LoseAnswer: true, Times: 3},
		{Status: http.StatusServiceUnavailable, Times: 20},
		{Methods: put, Status: http.StatusInternalServerError, Times: 3},
		{Methods: put, Hang: true},
		{Delay: 300 * time.Millisecond},
	}
	return faults[n.rnd.IntN(len(faults))]
}

// transfer moves the leadership of a shard, where it can be moved just now.
type transfer struct{ n *nemesis }

func (h *transfer) String() string { return "transfer" }

func (h *transfer) Start() error {
	ctx, cancel := context.WithTimeout(h.n.t.Context(), 5*time.Second)
	defer cancel()
	// It may be refused: the target may not be ready.
	_, _ = h.n.node().TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: h.n.rnd.Uint32N(3), NodeId: h.n.node().ID})
	return nil
}

func (h *transfer) Heal() error { return nil }

// run does harm for a while. Then all is healed.
func (n *nemesis) run(during time.Duration, l *load) {
	n.t.Helper()
	for start := time.Now(); time.Since(start) < during; {
		n.round(start)
		if n.rnd.IntN(2) == 0 {
			n.settle()
			l.waitMore(50)
		}
	}
	n.settle()
	var told []string
	for kind, times := range n.done {
		told = append(told, fmt.Sprintf("%s %d×", kind, times))
	}
	slices.Sort(told)
	n.t.Logf("done: %s", strings.Join(told, ", "))
}

// round does up to three harms at a time, which are healed after up to 5 s.
func (n *nemesis) round(start time.Time) {
	n.t.Helper()
	names := make([]string, 0, len(n.kinds))
	for name := range n.kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	harmed := make(map[string]bool)
	var under []harness.Harm
	for range 1 + n.rnd.IntN(3) {
		name := names[n.rnd.IntN(len(names))]
		c := n.kinds[name]()
		if harmed[c.subject] || harmed[everything] || (c.subject == everything && len(harmed) > 0) {
			continue
		}
		harmed[c.subject] = true
		n.t.Logf("%v: %s", time.Since(start).Round(time.Millisecond), c.harm)
		require.NoError(n.t, c.harm.Start(), c.harm)
		n.done[name]++
		under = append(under, c.harm)
		n.lasting(time.Second)
	}
	n.lasting(4 * time.Second)
	// Draining is taken back when there is a majority again that can do it.
	slices.SortStableFunc(under, func(a, b harness.Harm) int { return isDrain(a) - isDrain(b) })
	for _, h := range under {
		require.NoError(n.t, h.Heal(), h)
	}
}

func isDrain(h harness.Harm) int {
	if _, ok := h.(*harness.Drain); ok {
		return 1
	}
	return 0
}

// lasting lets harm last for up to the time given.
func (n *nemesis) lasting(atMost time.Duration) { lasting(n.t, n.upTo(atMost)) }

// settle waits until the cluster is whole. Nodes that have ended because of their disk, which takes them some seconds, are
// started again; no other may end.
func (n *nemesis) settle() {
	n.t.Helper()
	n.c.WaitWhole(2*syncWithin, func(v *harness.Node) {
		require.Containsf(n.t, v.Process().LogTail(), "no space left on device", "%s has ended by itself", v.ID)
		v.Start()
	})
}

// faultsFor is for how long a nemesis is at work.
func faultsFor(short, nightly time.Duration) time.Duration {
	if harness.Nightly() {
		return nightly
	}
	return short
}

// Everything that needs no root, by chance, for a while: nothing that was acknowledged is lost, doubled or moved.
func TestNemesis(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 4, Flags: early()})
	m := watchMemory(t, c)
	l := startLoad(t, c, loadConfig{partitions: 3, every: 25 * time.Millisecond, hurried: true, topics: true})
	n := newNemesis(t, c)
	n.run(faultsFor(15*time.Second, 15*time.Minute), l)
	waitUploaded(t, c, loadTopic)
	l.finish()
	m.stop()
}
