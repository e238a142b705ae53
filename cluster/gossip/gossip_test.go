package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	wait = 20 * time.Second
	tick = 20 * time.Millisecond
)

func incarnation(n int) string { return fmt.Sprintf("01J%023d", n) }

// node is one running Gossip of a test.
type node struct {
	*Gossip
	err chan error
}

type option func(*Config)

func withCluster(id string) option     { return func(c *Config) { c.Self.ClusterID = id } }
func withSeeds(seeds ...string) option { return func(c *Config) { c.Seeds = seeds } }
func withKnown(f func() []string) option {
	return func(c *Config) { c.KnownPeers = f }
}

func testConfig(id string, n int) Config {
	return Config{
		Self: Member{
			NodeID: id, Incarnation: incarnation(n), Zone: "z",
			RaftAddr: "127.0.0.1:7000", GRPCAddr: "127.0.0.1:50051", HTTPAddr: "127.0.0.1:8080",
			BootstrapExpect: 3,
		},
		ClusterName:    "test",
		BindAddr:       "127.0.0.1:0",
		RejoinInterval: 100 * time.Millisecond,
		ProbeInterval:  100 * time.Millisecond,
		Logger:         slog.New(slog.DiscardHandler),
	}
}

func start(t *testing.T, id string, n int, opts ...option) *node {
	t.Helper()
	cfg := testConfig(id, n)
	for _, o := range opts {
		o(&cfg)
	}
	g, err := New(t.Context(), cfg)
	require.NoError(t, err)
	nd := &node{Gossip: g, err: make(chan error, 1)} // Run's error
	ctx, cancel := context.WithCancel(t.Context())
	go func() { nd.err <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-nd.err: // A test that wants an error has read it.
			require.NoError(t, err)
		case <-time.After(wait):
			t.Error("Run did not end")
		}
		require.NoError(t, g.Close())
		require.NoError(t, g.Close())
	})
	return nd
}

func ids(g *Gossip) string {
	var s []string
	for _, m := range g.Members() {
		s = append(s, m.NodeID)
	}
	return strings.Join(s, " ")
}

func requireMembers(t *testing.T, want string, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		require.Eventually(t, func() bool { return ids(n.Gossip) == want }, wait, tick,
			"%s sees %q", n.cfg.Self.NodeID, ids(n.Gossip))
	}
}

func TestMembersComeAndGo(t *testing.T) {
	reg := prometheus.NewRegistry()
	var self *Gossip
	RegisterMetrics(reg, func() *Gossip { return self })
	families, err := reg.Gather()
	require.NoError(t, err)
	require.Zero(t, families[0].GetMetric()[0].GetGauge().GetValue(), "it is there before the gossip")
	a := start(t, "a", 1)
	self = a.Gossip
	b := start(t, "b", 2, withSeeds(a.Addr()))
	c := start(t, "c", 3, withSeeds(a.Addr()))
	requireMembers(t, "a b c", a, b, c)
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP streamhouse_agents_active Alive members in gossip, this node included.
# TYPE streamhouse_agents_active gauge
streamhouse_agents_active 3
`)))
	m, ok := b.Member("c")
	require.True(t, ok)
	require.Equal(t, c.Addr(), m.GossipAddr)
	require.Equal(t, "127.0.0.1:7000", m.RaftAddr)
	require.True(t, m.Fresh)
	require.Equal(t, 3, m.BootstrapExpect)

	require.NoError(t, c.SetClusterID("cluster1"))
	require.Eventually(t, func() bool {
		m, ok := a.Member("c")
		return ok && m.ClusterID == "cluster1" && !m.Fresh
	}, wait, tick)

	changed := a.Changed()
	require.NoError(t, c.Leave(time.Second))
	requireMembers(t, "a b", a, b)
	<-changed

	require.NoError(t, b.Close()) // As good as dead.
	requireMembers(t, "a", a)
	_, ok = a.Member("b")
	require.False(t, ok)
	require.False(t, a.IncarnationAlive("b", incarnation(2)))
}

// gossip-never-heals: after both sides have forgotten each other, nobody
// but the loop over the metadata's nodes brings them together.
func TestGossipNeverHeals(t *testing.T) {
	a := start(t, "a", 1, withCluster("c1"))
	b := start(t, "b", 2, withCluster("c1"), withKnown(func() []string { return []string{a.Addr()} }))
	requireMembers(t, "a b", a, b)
}

func TestComesBackAtAnotherAddress(t *testing.T) {
	a := start(t, "a", 1)
	b := start(t, "b", 2, withSeeds(a.Addr()))
	requireMembers(t, "a b", a, b)
	require.NoError(t, b.Close())
	requireMembers(t, "a", a)
	again := start(t, "b", 2, withSeeds(a.Addr()))
	requireMembers(t, "a b", a, again)
	m, _ := a.Member("b")
	require.Equal(t, again.Addr(), m.GossipAddr)
}

func TestOtherClusterIsRefused(t *testing.T) {
	a := start(t, "a", 1, withCluster("c1"))
	b := start(t, "b", 2, withCluster("c2"), withSeeds(a.Addr()))
	fresh := start(t, "f", 3, withSeeds(a.Addr()))
	requireMembers(t, "a f", a, fresh)
	require.Equal(t, "b", ids(b.Gossip))

	other := start(t, "o", 4, withSeeds(a.Addr()), func(c *Config) { c.ClusterName = "other" })
	require.Never(t, func() bool { return ids(other.Gossip) != "o" }, 500*time.Millisecond, tick)
	require.Equal(t, "a f", ids(a.Gossip))
}

func TestJoinedClusterHidesOthers(t *testing.T) {
	a := start(t, "a", 1, withCluster("c1"))
	f := start(t, "f", 2, withSeeds(a.Addr()))
	requireMembers(t, "a f", f)
	require.NoError(t, f.SetClusterID("c2"))
	requireMembers(t, "f", f)
}

func TestSecondNodeWithOneIDIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name          string
		first, second int
		settled       bool
	}{
		{"fresh, the older directory stays", 1, 2, false},
		{"registered stays, whatever its age", 2, 1, true},
		{"copied directory", 1, 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := start(t, "a", tc.first)
			if tc.settled {
				require.NoError(t, a.SetClusterID("c1"))
				require.NoError(t, a.SetSettled())
			}
			b := start(t, "a", tc.second, withSeeds(a.Addr()))
			var err error
			select {
			case err = <-b.err:
				b.err <- nil
			case <-time.After(wait):
			}
			var dup *DuplicateError
			require.ErrorAs(t, err, &dup)
			require.Contains(t, err.Error(), "--node-id")
			require.Empty(t, a.err)
		})
	}
}

// A node whose disk was wiped comes back under its id while the others still
// see its old incarnation: nobody lives there, so it is not refused.
func TestStaleIncarnationIsNoDuplicate(t *testing.T) {
	a := start(t, "a", 1)
	b := start(t, "b", 2, withSeeds(a.Addr()))
	requireMembers(t, "a b", a, b)
	require.NoError(t, b.Close())
	again := start(t, "b", 3, withSeeds(a.Addr()))
	require.Eventually(t, func() bool { return a.IncarnationAlive("b", incarnation(3)) }, wait, tick)
	require.Eventually(t, func() bool { return !a.IncarnationAlive("b", incarnation(2)) }, wait, tick)
	m, ok := a.Member("b")
	require.True(t, ok)
	require.Equal(t, incarnation(3), m.Incarnation)
	require.Empty(t, again.err)
}

func TestConfigErrors(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"Self.NodeID":               func(c *Config) { c.Self.NodeID = "a/b" },
		"Self.Incarnation":          func(c *Config) { c.Self.Incarnation = "x" },
		"ClusterName":               func(c *Config) { c.ClusterName = "" },
		"BindAddr":                  func(c *Config) { c.BindAddr = "nowhere" },
		"Seeds":                     func(c *Config) { c.Seeds = []string{"nowhere"} },
		"advertised gossip address": func(c *Config) { c.Self.GossipAddr = "127.0.0.1:99999" },
		ErrMetaTooLong.Error():      func(c *Config) { c.Self.Zone = strings.Repeat("z", 600) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig("a", 1)
			change(&cfg)
			_, err := New(t.Context(), cfg)
			require.ErrorContains(t, err, name)
		})
	}
}

func TestBoundPortIsAnError(t *testing.T) {
	a := start(t, "a", 1)
	cfg := testConfig("b", 2)
	cfg.BindAddr = a.Addr()
	_, err := New(t.Context(), cfg)
	require.ErrorContains(t, err, a.Addr())
	require.NotErrorIs(t, err, ErrMetaTooLong)
}
