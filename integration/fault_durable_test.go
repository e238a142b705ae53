package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// Producers write with acks=durable while nodes are killed and S3 fails, and again and again every node is killed at once and
// loses its disk, with uploads under way that reach S3 when the cluster has been recovered already: what was acknowledged is
// there in the end, once, in order, at its offset.
func TestDurableOutlivesAllDisks(t *testing.T) {
	t.Parallel()
	d := startDurable(t)
	for life := range 2 * harness.Repeat(3) {
		for i := range harness.Repeat(3) {
			d.killUnder(d.c.Nodes[(life+i)%len(d.c.Nodes)], badPuts[(2*life+i)%len(badPuts)], badPuts[(2*life+i+1)%len(badPuts)])
		}
		d.loseAll(life)
	}
	d.finish()
}

// badPuts are what S3 does to the nodes that are left when one is killed.
var badPuts = []harness.Fault{
	{Methods: []string{http.MethodPut}, Status: http.StatusServiceUnavailable, Times: 6},
	{Methods: []string{http.MethodPut}, LoseAnswer: true, Times: 4},
	{Methods: []string{http.MethodPut}, Delay: 300 * time.Millisecond, Times: 6},
	{Methods: []string{http.MethodPut}, Status: http.StatusInternalServerError, Times: 3},
}

// durable is a load of records that are acknowledged once they are in the object store.
type durable struct {
	*load

	late []string // objects that have come too late so far
}

// moreDurable is how many records are waited for at each step.
const moreDurable = 60

func startDurable(t *testing.T) *durable {
	t.Helper()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	d := &durable{load: newLoad(t, c, loadConfig{partitions: 3, every: 25 * time.Millisecond})}
	var stops []func()
	for _, name := range []string{"one", "two"} {
		// A record may fail: what was under way when all disks were lost has no known outcome.
		stops = append(stops, d.produce(name, client.ProducerConfig{Acks: client.AcksDurable, DeliveryTimeout: patience}))
	}
	d.stopProducers = func() {
		for _, stop := range stops {
			stop()
		}
	}
	d.waitMore(moreDurable)
	return d
}

// killUnder kills a node while S3 does what the faults say, one after the other, and starts it again. The others are a majority
// of every shard, as they are not in the first seconds of a cluster.
func (d *durable) killUnder(n *harness.Node, faults ...harness.Fault) {
	d.t.Helper()
	d.c.WaitInSync(syncWithin)
	for _, f := range faults {
		defer d.c.Proxy.Inject(f)()
	}
	n.Kill()
	d.waitMore(moreDurable)
	n.Start()
	d.waitMore(moreDurable)
}

// underWay is how many uploads are under way when all disks are lost.
const underWay = 2

// loseAll kills all nodes at once, takes their disks away, and recovers the cluster from its bucket. Uploads that were under
// way arrive when the recovered cluster has given their offsets to other records.
func (d *durable) loseAll(life int) {
	d.t.Helper()
	before := len(d.c.Proxy.Late())
	arrive := d.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: ".seg", Late: true, Times: underWay})
	harness.Eventually(d.t, syncWithin, "uploads are under way", func(context.Context) error {
		if n := len(d.c.Proxy.Late()) - before; n < underWay {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	wipeAll(d.c)
	unavailable := d.c.Proxy.Inject(harness.Fault{Status: http.StatusServiceUnavailable, Times: 3})
	r, _, err := runRecover(d.t, d.c, "--execute")
	require.NoError(d.t, err)
	require.True(d.t, r.Executed)
	require.Zero(d.t, r.LostRecords)
	require.GreaterOrEqual(d.t, r.Records, d.acked.Load())
	for _, name := range d.late {
		require.Contains(d.t, r.skipped(), name, "it came too late for an earlier recovery")
	}
	unavailable()
	late := d.missing(d.t.Context(), d.c.Proxy.Late()[before:])

	d.c.Start()
	d.waitMore(moreDurable)
	arrive()
	harness.Eventually(d.t, syncWithin, "the late uploads are in the bucket", func(ctx context.Context) error {
		if missing := d.missing(ctx, late); len(missing) > 0 {
			return fmt.Errorf("%v are not", missing)
		}
		return nil
	})
	d.late = append(d.late, late...)
	d.t.Logf("life %d is lost and recovered: %d records; late so far: %d uploads", life, r.Records, len(d.late))
}

// missing returns the names of those objects that the bucket does not have, of names or of paths of requests.
func (d *durable) missing(ctx context.Context, paths []string) (names []string) {
	d.t.Helper()
	const below = "test/"
	objects, err := d.c.Gateway.Objects(ctx, harness.Bucket, below)
	require.NoError(d.t, err)
	for _, p := range paths {
		name := strings.TrimPrefix(p, "/"+harness.Bucket+"/"+below)
		if _, there := objects[below+name]; !there {
			names = append(names, name)
		}
	}
	return names
}

// skipped returns the names of the objects that are left alone.
func (r *recovered) skipped() (names []string) {
	for _, s := range r.Skipped {
		names = append(names, s.Object)
	}
	return names
}

// finish ends the load, reads everything back, and holds it against what was acknowledged.
func (d *durable) finish() {
	d.t.Helper()
	d.c.WaitInSync(syncWithin)
	d.waitMore(moreDurable)
	d.stopProducers()
	violations := d.check()
	require.NotEmpty(d.t, d.late, "no upload came late")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.t.Logf("%d records acknowledged in the object store: %d lost, duplicated, reordered or otherwise wrong; outcomes %v, slowest record %v, %d late uploads",
		d.acked.Load(), violations, d.outcomes, d.slowest.Round(time.Millisecond), len(d.late))
}
