//go:build nightly

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	// alertFactor divides all durations of the rules: a minute is 2 seconds.
	alertFactor = 30
	// alertWithin bounds how long an alert may take to fire or to resolve on a busy machine.
	alertWithin = 90 * time.Second
)

// scenario is a fault, and the alerts that must fire while it lasts and resolve after it.
type scenario struct {
	alerts []string
	// inject causes the fault; the function that it returns ends it.
	inject func(t *testing.T, w *alertWorld) (end func())
}

// Scenarios of a stage run at once on one cluster, stages one after the other.
var (
	storageStages = [][]scenario{
		{
			{[]string{"CacheHitRateLow"}, coldReads},
			{[]string{"ConsumerLagHigh"}, deadConsumer},
			{[]string{"DiskFilling"}, fullDisk},
			{[]string{"DataCorrupt"}, goneObject},
			{[]string{"S3UploadFailed"}, oneRefusedUpload},
		},
		{
			{[]string{"LogWriteSlow"}, stallingNode},
		},
		{
			{[]string{"S3LatencyHigh", "ProduceLatencyHigh"}, slowStore},
		},
		{
			{[]string{"S3ErrorRatioHigh", "UploadBacklogHigh", "LogFilling"}, storeAway}, // S3ErrorRatioHigh first: tries get rarer
		},
	}
	nodeStages = [][]scenario{
		{{[]string{"ReplicaBehind", "MetadataBehind"}, nodeCutOff}},
		{{[]string{
			"NodeDown", "ShardUnderReplicated", "NoQuorum", "ShardWithoutLeader", "ProduceErrorRatioHigh", "ConsumeErrorsHigh",
		}, twoNodesDown}},
		{{[]string{"NodeRestarting"}, restarts}},
	}
)

func TestEveryAlertHasAScenario(t *testing.T) {
	t.Parallel()
	var have []string
	for _, stage := range slices.Concat(storageStages, nodeStages) {
		for _, s := range stage {
			have = append(have, s.alerts...)
		}
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(alertsOf(t))), have)
}

// alertWorld is a cluster that a real Prometheus watches with the rules as they are deployed, and a real Alertmanager behind.
type alertWorld struct {
	c  *harness.Cluster
	p  *harness.Prometheus
	am *harness.Alertmanager
}

// watchAlerts begins to watch once leaders are spread: a hand-over is short, and so is a minute here.
func watchAlerts(t *testing.T, c *harness.Cluster) *alertWorld {
	t.Helper()
	harness.Eventually(t, syncWithin, "every node leads a shard", func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		for _, n := range st.GetNodes() {
			if n.GetLeaders() != 1 {
				return fmt.Errorf("%s leads %d", n.GetNodeId(), n.GetLeaders())
			}
		}
		return nil
	})
	w := &alertWorld{c: c, am: harness.StartAlertmanager(t, deployed(t, "alertmanager", "alertmanager.yml"))}
	opts := harness.PrometheusOptions{ScrapeInterval: 500 * time.Millisecond, Alertmanager: w.am.Addr}
	for _, name := range []string{"recording.yml", "alerts.yml"} {
		opts.RuleFiles = append(opts.RuleFiles, scaleRules(t, deployed(t, "prometheus", "rules", name), alertFactor))
	}
	w.p = harness.StartPrometheus(t, c, opts)
	// Prometheus takes 5 seconds until it begins to scrape, which are minutes here: until then it knows no node.
	harness.Eventually(t, alertWithin, "no alert fires after the start", w.quiet)
	return w
}

// firing returns the alerts that fire now, by name.
func (w *alertWorld) firing(ctx context.Context) (map[string][]promv1.Alert, error) {
	res, err := w.p.Alerts(ctx)
	if err != nil {
		return nil, err
	}
	firing := make(map[string][]promv1.Alert)
	for _, a := range res.Alerts {
		if a.State == promv1.AlertStateFiring {
			name := string(a.Labels["alertname"])
			firing[name] = append(firing[name], a)
		}
	}
	return firing, nil
}

// quiet is an error while an alert fires.
func (w *alertWorld) quiet(ctx context.Context) error {
	firing, err := w.firing(ctx)
	if err == nil && len(firing) > 0 {
		err = fmt.Errorf("these do: %v", firing)
	}
	return err
}

// requireQuiet wants no alert to fire for a while.
func (w *alertWorld) requireQuiet(t *testing.T, during time.Duration, when string) {
	t.Helper()
	harness.Always(t, during, "no alert fires "+when, w.quiet)
	v, err := w.p.Vector(t.Context(), `count_over_time(ALERTS{alertstate="firing"}[`+model.Duration(during).String()+`])`)
	require.NoError(t, err)
	require.Empty(t, v, "between two looks, too")
}

// run injects the faults of a stage one after the other, so that they last together, and looks at the last one first: it may
// be over soon.
func (w *alertWorld) run(t *testing.T, stages [][]scenario) {
	t.Helper()
	for i, stage := range stages {
		t.Run(fmt.Sprintf("stage %d", i+1), func(t *testing.T) {
			var ends []func()
			var names []string
			for _, s := range stage {
				ends = append(ends, s.inject(t, w))
				names = slices.Concat(s.alerts, names)
			}
			for _, name := range names {
				w.waitFires(t, name)
			}
			for _, end := range ends {
				end()
			}
			for _, name := range names {
				w.waitResolves(t, name)
			}
		})
	}
}

// waitFires waits until an alert fires, and until Alertmanager has it for the receiver of its severity.
func (w *alertWorld) waitFires(t *testing.T, name string) {
	t.Helper()
	took := harness.Eventually(t, alertWithin, name+" fires", func(ctx context.Context) error {
		firing, err := w.firing(ctx)
		if err != nil {
			return err
		}
		if len(firing[name]) == 0 {
			return fmt.Errorf("only these do: %v", slices.Sorted(maps.Keys(firing)))
		}
		for _, a := range firing[name] {
			for _, key := range []string{"summary", "description"} {
				text := string(a.Annotations[model.LabelName(key)])
				if text == "" || strings.Contains(text, "<") || strings.Contains(text, "{{") {
					return fmt.Errorf("its %s is %q", key, text)
				}
			}
		}
		return nil
	})
	harness.Eventually(t, alertWithin, "Alertmanager has "+name, func(ctx context.Context) error {
		got, err := w.am.Alerts(ctx, name)
		if err != nil {
			return err
		}
		if len(got) == 0 {
			return errors.New("it has none")
		}
		for _, a := range got {
			if len(a.Receivers) != 1 || a.Receivers[0].Name != receivers[a.Labels["severity"]] {
				return fmt.Errorf("%s goes to %v", a.Labels["severity"], a.Receivers)
			}
		}
		return nil
	})
	t.Logf("%s fired after %v", name, took.Round(time.Millisecond))
}

// waitResolves waits until an alert has ended, for Alertmanager too.
func (w *alertWorld) waitResolves(t *testing.T, name string) {
	t.Helper()
	took := harness.Eventually(t, alertWithin, name+" resolves", func(ctx context.Context) error {
		firing, err := w.firing(ctx)
		if err != nil {
			return err
		}
		if len(firing[name]) > 0 {
			return fmt.Errorf("%v", firing[name])
		}
		got, err := w.am.Alerts(ctx, name)
		if err == nil && len(got) > 0 {
			err = fmt.Errorf("Alertmanager has %v", got)
		}
		return err
	})
	t.Logf("%s resolved after %v", name, took.Round(time.Millisecond))
}

// untilEnd calls f again and again until end is called, and at the end of the test.
func untilEnd(t *testing.T, every time.Duration, f func(ctx context.Context)) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				f(ctx)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// The two run beside each other, and beside no other test: where minutes are seconds, a machine that is busy with other
// clusters looks like trouble.
func TestAlerts(t *testing.T) {
	t.Run("storage", testStorageAlerts)
	t.Run("nodes", testNodeAlerts)
}

// Alerts of consumers, producers, the object store and disks fire by their faults and resolve after them; before that
// nothing fires in a cluster under load.
func testStorageAlerts(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, harness.Options{Flags: quick(map[string]string{
		"upload-interval": "200ms", "checkpoint-bytes": "64KiB", "log-retain-bytes": "0", "log-max-bytes": "24MiB",
		"tail-bytes": "0", "cache-bytes": "8MiB", // 8 blocks, which the load below hits, and coldReads does not
		// A node that stalls for a moment is to stay a member.
		"raft-heartbeat-timeout": "2s", "raft-election-timeout": "2s", "raft-lease-timeout": "2s",
	})})
	// The third node's bound is a little below what its disk has free.
	free := freeBytes(t, c)
	c.Nodes[2].SetFlag("disk-min-free", strconv.FormatInt((free-diskMargin(free))/2, 10))
	c.Start()
	c.WaitInSync(syncWithin)
	w := watchAlerts(t, c)
	c.CreateTopic("load", 3, nil)
	ledger := harness.NewLedger("load")
	load := c.StartProducer(ledger, harness.ProducerConfig{Name: "load", Partitions: 3, Every: 50 * time.Millisecond})
	endReads := untilEnd(t, 50*time.Millisecond, func(ctx context.Context) {
		for p := range int32(3) {
			_, _ = c.Nodes[1].Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "load", Partition: p, Group: "load", MaxRecords: 1})
		}
	})
	ledger.WaitAcked(t, 100, syncWithin)
	w.requireQuiet(t, 24*time.Second, "in a healthy cluster under load")
	endReads()
	load.Stop(t)
	w.run(t, storageStages)
}

// Alerts of nodes and their groups fire by their faults and resolve after them; before that nothing fires in an idle cluster.
func testNodeAlerts(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Network: true, Flags: quick(nil)})
	w := watchAlerts(t, c)
	c.CreateTopic("orders", 3, nil)
	w.requireQuiet(t, 30*time.Second, "in an idle cluster with a new topic")
	w.run(t, nodeStages)
	c.WaitInSync(syncWithin)
}

// deadConsumer is a group that has committed once and does not come back.
func deadConsumer(t *testing.T, w *alertWorld) func() {
	t.Helper()
	const records = 1200
	w.c.CreateTopic("lagging", 1, nil)
	commit := func(offset int64) {
		_, err := w.c.Nodes[0].CommitOffset(call(t), &streamhousev1.CommitOffsetRequest{
			Group: "billing", Topic: "lagging", Offsets: []*streamhousev1.CommittedOffset{{Partition: 0, Offset: offset}},
		})
		require.NoError(t, err)
	}
	commit(0)
	req := &streamhousev1.ProduceBatchRequest{Topic: "lagging", Partition: new(int32(0))}
	for range records {
		req.Records = append(req.Records, &streamhousev1.Record{Value: []byte("v")})
	}
	_, err := w.c.Nodes[0].ProduceBatch(call(t), req)
	require.NoError(t, err)
	return func() { commit(records) }
}

// oneRefusedUpload lets the object store refuse one PUT, once.
func oneRefusedUpload(t *testing.T, w *alertWorld) func() {
	t.Helper()
	w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: ".seg", Status: http.StatusForbidden, Times: 1})
	_, err := produce(call(t), w.c.Nodes[0], "load", 0, "v", 0)
	require.NoError(t, err)
	harness.Eventually(t, syncWithin, "the failure is counted", func(ctx context.Context) error {
		n, err := w.c.Sum(ctx, "streamhouse_s3_errors_total", harness.Labels{"operation": "PUT", "error_type": "failed"})
		if err == nil && n != 1 {
			err = fmt.Errorf("%v are", n)
		}
		return err
	})
	return func() {}
}

// coldReads reads more history than the cache holds, again and again.
func coldReads(t *testing.T, w *alertWorld) func() {
	t.Helper()
	const objects = 24
	w.c.CreateTopic("history", 1, nil)
	value := strings.Repeat("h", 128<<10)
	for range objects {
		_, err := produce(call(t), w.c.Nodes[0], "history", 0, value, streamhousev1.Acks_ACKS_DURABLE)
		require.NoError(t, err)
	}
	next := int64(0)
	return untilEnd(t, 20*time.Millisecond, func(ctx context.Context) {
		_, _ = w.c.Nodes[0].Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "history", Offset: next % objects, MaxRecords: 1})
		next++
	})
}

// goneObject reads a record whose object is missing for the moment, again and again until both systems have the alert.
func goneObject(t *testing.T, w *alertWorld) func() {
	t.Helper()
	w.c.CreateTopic("damaged", 1, nil)
	read := func(ctx context.Context) error {
		defer w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodGet}, Key: ".seg", Status: http.StatusNotFound})()
		_, err := consume(ctx, w.c.Nodes[1], "damaged", 0, 0, 0)
		return err
	}
	harness.Eventually(t, syncWithin, "a read of a missing object says so", func(ctx context.Context) error {
		// The log is cut once something comes behind what was uploaded.
		if _, err := produce(ctx, w.c.Nodes[1], "damaged", 0, strings.Repeat("d", 32<<10), streamhousev1.Acks_ACKS_DURABLE); err != nil {
			return err
		}
		if err := read(ctx); !harness.IsCode(err, codes.DataLoss, "CORRUPT_DATA") {
			return fmt.Errorf("it says %w", errors.Join(errors.New("another thing"), err))
		}
		return nil
	})
	return untilEnd(t, 500*time.Millisecond, func(ctx context.Context) { _ = read(ctx) })
}

func freeBytes(t *testing.T, c *harness.Cluster) int64 {
	t.Helper()
	dir := filepath.Dir(c.Nodes[2].Dir)
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	return int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // it is a uint32 on macOS
}

// diskMargin is how much others may write to the disk, or free, without an effect on the test.
func diskMargin(free int64) int64 { return min(free/4, 6<<30) }

// fullDisk gives space of the disk to a file.
func fullDisk(t *testing.T, w *alertWorld) func() {
	t.Helper()
	ballast := filepath.Join(t.TempDir(), "ballast")
	size := strconv.FormatInt(2*diskMargin(freeBytes(t, w.c)), 10)
	out, err := exec.CommandContext(t.Context(), "fallocate", "-l", size, ballast).CombinedOutput()
	require.NoError(t, err, string(out))
	return func() { require.NoError(t, os.Remove(ballast)) }
}

// slowStore delays every PUT for longer than both limits of latency, while producers wait for the object store.
func slowStore(t *testing.T, w *alertWorld) func() {
	t.Helper()
	w.c.CreateTopic("durable", 3, nil)
	heal := w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Delay: 8500 * time.Millisecond})
	ends := []func(){heal}
	for p := range int32(3) {
		// The first comes later for each partition: uploads that ended together would leave more than a window between them.
		every := time.Duration(1+25*p) * 100 * time.Millisecond
		ends = append(ends, untilEnd(t, every, func(ctx context.Context) {
			_, _ = produce(ctx, w.c.Nodes[0], "durable", p, "v", streamhousev1.Acks_ACKS_DURABLE)
		}))
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// stallingNode stops a node's process again and again for less than the others take for its end, as a disk that stalls does.
func stallingNode(t *testing.T, w *alertWorld) func() {
	t.Helper()
	proc := w.c.Nodes[2].Process()
	ticks := 0
	stall := untilEnd(t, 100*time.Millisecond, func(context.Context) {
		switch ticks++; ticks % 10 {
		case 0:
			_ = proc.Resume()
		case 1:
			_ = proc.Pause()
		}
	})
	ledger := harness.NewLedger("load")
	load := w.c.StartProducer(ledger, harness.ProducerConfig{Name: "stall", Partitions: 3, Every: 10 * time.Millisecond})
	return func() {
		stall()
		require.NoError(t, proc.Resume())
		load.Stop(t)
	}
}

// storeAway takes the object store away, and writes to one shard until its log is full and produce is refused.
func storeAway(t *testing.T, w *alertWorld) func() {
	t.Helper()
	up := w.c.Proxy.Down()
	w.c.CreateTopic("filling", 1, nil)
	value := strings.Repeat("f", 1<<20)
	// A snapshot may still cut the log after a refusal, so writes go on.
	writes := untilEnd(t, 50*time.Millisecond, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, callWithin)
		defer cancel()
		_, _ = produce(ctx, w.c.Nodes[0], "filling", 0, value, 0)
	})
	return func() {
		writes()
		up()
	}
}

// nodeCutOff cuts a node off from the others; Prometheus still sees it.
func nodeCutOff(t *testing.T, w *alertWorld) func() {
	t.Helper()
	cut, rest := w.c.Nodes[2], w.c.Nodes[:2]
	w.c.Network.Isolate(cut, rest...)
	n := 0
	writes := untilEnd(t, 100*time.Millisecond, func(ctx context.Context) {
		n++
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		for p := range int32(3) {
			_, _ = produce(ctx, rest[n%2], "orders", p, "v", 0)
		}
		_, _ = rest[n%2].AlterTopic(ctx, &streamhousev1.AlterTopicRequest{
			Name: "orders", SetConfig: map[string]string{"retention.ms": strconv.Itoa(1_000_000_000 + n)},
		})
	})
	return func() {
		writes()
		w.c.Network.Heal()
	}
}

// twoNodesDown kills two of three nodes; clients go on.
func twoNodesDown(t *testing.T, w *alertWorld) func() {
	t.Helper()
	survivor := w.c.Nodes[0]
	w.c.Nodes[1].Kill()
	w.c.Nodes[2].Kill()
	short := func(f func(ctx context.Context)) func() {
		return untilEnd(t, 100*time.Millisecond, func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			f(ctx)
		})
	}
	writes := short(func(ctx context.Context) { _, _ = produce(ctx, survivor, "orders", 0, "v", 0) })
	ends := []func(){writes}
	for p := range int32(3) {
		ends = append(ends, short(func(ctx context.Context) { _, _ = consume(ctx, survivor, "orders", p, 1<<30, 0) }))
	}
	return func() {
		for _, end := range ends {
			end()
		}
		w.c.Start()
		w.c.WaitInSync(syncWithin)
	}
}

// restarts kills a node three times soon after it has started.
func restarts(t *testing.T, w *alertWorld) func() {
	t.Helper()
	n := w.c.Nodes[2]
	for range 3 {
		var started float64
		harness.Eventually(t, syncWithin, "Prometheus knows when the node was started", func(ctx context.Context) (err error) {
			started, err = w.p.Value(ctx, `process_start_time_seconds{node="`+n.ID+`"}`)
			return err
		})
		n.Kill()
		n.Start()
		harness.Eventually(t, syncWithin, "Prometheus has seen the restart", func(ctx context.Context) error {
			now, err := w.p.Value(ctx, `process_start_time_seconds{node="`+n.ID+`"}`)
			if err == nil && now <= started {
				err = fmt.Errorf("it was started at %v, as before", now)
			}
			return err
		})
	}
	return func() { w.c.WaitReady(syncWithin) }
}
