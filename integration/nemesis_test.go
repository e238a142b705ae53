package integration_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// envSeed repeats a run of TestNemesis.
const envSeed = "STREAMHOUSE_SEED"

// nemesis does harm to a cluster, chosen by chance.
type nemesis struct {
	t   *testing.T
	c   *harness.Cluster
	rnd *rand.Rand
}

// lasting lets a harm last for up to the time given.
func (n *nemesis) lasting(atMost time.Duration) {
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Duration(n.rnd.Int64N(int64(atMost))))
	defer cancel()
	<-ctx.Done()
}

func (n *nemesis) node() *harness.Node { return n.c.Nodes[n.rnd.IntN(len(n.c.Nodes))] }

func (n *nemesis) harms() map[string]func() {
	return map[string]func(){
		"kill": func() {
			victim := n.node()
			victim.Kill()
			n.lasting(3 * time.Second)
			victim.Start()
		},
		"pause": func() {
			victim := n.node()
			require.NoError(n.t, victim.Process().Pause())
			n.lasting(4 * time.Second)
			require.NoError(n.t, victim.Process().Resume())
		},
		"restart": func() {
			victim := n.node()
			harness.Eventually(n.t, 10*time.Second, "the node is live", victim.CheckLive)
			victim.Stop()
			victim.Start()
		},
		"kill all": func() {
			n.c.KillAll()
			n.c.Start()
		},
		"transfer": func() {
			ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Second)
			defer cancel()
			// It may be refused: the target may not be ready.
			_, _ = n.node().TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: n.rnd.Uint32N(3), NodeId: n.node().ID})
		},
		"S3 down": func() {
			up := n.c.Proxy.Down()
			n.lasting(3 * time.Second)
			up()
		},
		"S3 loses answers": func() {
			n.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, LoseAnswer: true, Times: 3})
		},
	}
}

// Everything at once, by chance, for a while: nothing that was acknowledged is lost, doubled or moved.
func TestNemesis(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(envSeed); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%s=%d", envSeed, seed)
	during := 25 * time.Second
	if harness.Nightly() {
		during = 15 * time.Minute
	}
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	c.CreateTopic("orders", 6, nil)
	ledger := harness.NewLedger("orders")
	producers := []*harness.Producer{
		c.StartProducer(ledger, harness.ProducerConfig{Name: "one", Partitions: 6, Every: 25 * time.Millisecond, Window: 5}),
		c.StartProducer(ledger, harness.ProducerConfig{Name: "two", Partitions: 6, Every: 50 * time.Millisecond, Window: 1, RecordBytes: 2000}),
	}
	n := &nemesis{t: t, c: c, rnd: rand.New(rand.NewPCG(seed, seed))}
	harms := n.harms()
	names := []string{"kill", "pause", "restart", "transfer", "kill", "S3 down", "S3 loses answers", "kill all"}
	for start := time.Now(); time.Since(start) < during; {
		name := names[n.rnd.IntN(len(names))]
		t.Logf("%v: %s", time.Since(start).Round(time.Millisecond), name)
		harms[name]()
		if n.rnd.IntN(2) == 0 {
			c.WaitInSync(syncWithin)
		}
	}
	c.WaitInSync(syncWithin)
	ledger.WaitAcked(t, 100, syncWithin)
	for _, p := range producers {
		p.Stop(t)
	}
	t.Logf("%d records acknowledged", ledger.Acked())
	ledger.Verify(t, c.Nodes...)
	waitUploaded(t, c, "orders")
	ledger.Verify(t, c.Nodes...)
}
