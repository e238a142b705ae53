//go:build root

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	// alertFactor divides all durations of the rules: a minute is 2 seconds.
	alertFactor = 30
	// alertScrapes is the time between two scrapes, and between two looks at the rules.
	alertScrapes = time.Second
	// alertWithin bounds how long an alert may take to fire or to resolve. On a machine that is short of processors scrapes are
	// left out, and what must last for a while begins anew.
	alertWithin = 4 * time.Minute
)

// scenario is a fault, and the alerts that must fire while it lasts and resolve after it.
type scenario struct {
	alerts []string
	// inject causes the fault; the function that it returns ends it.
	inject func(t *testing.T, w *alertWorld) (end func())
}

// alertCluster is a cluster and what happens to it. Faults of a stage last together; a fault of one stage would hide or cause
// alerts of another.
type alertCluster struct {
	name   string
	start  func(t *testing.T) *alertWorld
	before func(t *testing.T, w *alertWorld) // nil where nothing has to hold before the faults
	stages [][]scenario
}

var alertClusters = []alertCluster{
	{"store", startStoreCluster, quietUnderLoad, [][]scenario{{
		{[]string{"MetadataCheckpointLate"}, lostCheckpoints}, // takes a minute, while the others come
		{[]string{"ConsumerLagHigh"}, deadConsumer},
		{[]string{"ConsumerRebalancesHigh"}, restlessMember},
		{[]string{"S3ErrorRatioHigh", "UploadBacklogHigh", "LogFilling"}, storeAwayForOneShard},
		{[]string{"S3LatencyHigh", "ProduceLatencyHigh"}, slowStore},
	}}},
	{"disk", startDiskCluster, nil, [][]scenario{{
		{[]string{"CacheHitRateLow"}, coldReads},
		{[]string{"DataCorrupt"}, goneObject},
		{[]string{"S3UploadFailed"}, oneRefusedUpload},
		{[]string{"DiskFilling"}, fullDisk},
		{[]string{"LogWriteSlow"}, stalledDisk},
	}}},
	{"partition", startPartitionCluster, nil, [][]scenario{
		{{[]string{"ReplicaBehind", "MetadataBehind", "ControllerFailing"}, nodeCutOff}},
		{
			{[]string{"LeaderChangesHigh"}, restlessLeaders},
			{[]string{"GossipSplit"}, gossipCutOff},
		},
	}},
	{"crash", startCrashCluster, quietWhenIdle, [][]scenario{{
		{[]string{"NodeRestarting"}, restarts},
		{[]string{
			"NodeDown", "ShardUnderReplicated", "NoQuorum", "ShardWithoutLeader", "ProduceErrorRatioHigh", "ConsumeErrorsHigh",
		}, twoNodesDown},
	}}},
}

func TestEveryAlertHasAScenario(t *testing.T) {
	t.Parallel()
	var have []string
	for _, c := range alertClusters {
		for _, s := range slices.Concat(c.stages...) {
			have = append(have, s.alerts...)
		}
	}
	have = append(have, "ObjectDamaged", "ReplicasDiffer") // TestScrubberRepairs, TestReplicasDiffer
	require.ElementsMatch(t, slices.Collect(maps.Keys(alertsOf(t))), have)
}

// Every alert fires by its fault and resolves after it. The clusters run beside each other, and beside no other test: where
// minutes are seconds, a machine that is busy with other clusters looks like trouble.
func TestAlerts(t *testing.T) {
	var wg sync.WaitGroup
	for _, c := range alertClusters {
		wg.Go(func() { // more at once than -parallel lets
			t.Run(c.name, func(t *testing.T) {
				w := c.start(t)
				w.watch(t)
				if c.before != nil {
					c.before(t, w)
				}
				w.run(t, c.stages)
			})
		})
	}
	wg.Wait()
}

// alertWorld is a cluster that a real Prometheus watches with the rules as they are deployed, and a real Alertmanager behind.
type alertWorld struct {
	c    *harness.Cluster
	disk *harness.Disk // of the first node, where it has one of its own
	p    *harness.Prometheus
	am   *harness.Alertmanager
}

// watch begins to watch once leaders are spread: a hand-over is short, and so is a minute here.
func (w *alertWorld) watch(t *testing.T) {
	t.Helper()
	harness.Eventually(t, syncWithin, "every node leads as many shards", func(ctx context.Context) error {
		st, err := w.c.AskStatus(ctx)
		if err != nil {
			return err
		}
		for _, n := range st.GetNodes() {
			if int(n.GetLeaders()) != len(st.GetShards())/len(w.c.Nodes) {
				return fmt.Errorf("%s leads %d", n.GetNodeId(), n.GetLeaders())
			}
		}
		return nil
	})
	w.am = harness.StartAlertmanager(t, deployed(t, "alertmanager", "alertmanager.yml"))
	opts := harness.PrometheusOptions{ScrapeInterval: alertScrapes, Alertmanager: w.am.Addr}
	for _, name := range []string{"recording.yml", "alerts.yml"} {
		opts.RuleFiles = append(opts.RuleFiles, scaleRules(t, deployed(t, "prometheus", "rules", name), alertFactor))
	}
	w.p = harness.StartPrometheus(t, w.c, opts)
	// Prometheus takes 5 seconds until it begins to scrape, which are minutes here: until then it knows no node.
	harness.Eventually(t, alertWithin, "no alert fires after the start", w.quiet)
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

// requireQuiet wants no alert to fire for a while in which, and a while before which, all nodes were scraped: without its
// processors a node is away for the rules, and two scrapes are a minute here.
func (w *alertWorld) requireQuiet(t *testing.T, during time.Duration, when string) {
	t.Helper()
	began, watched := time.Now(), during+10*alertScrapes
	complete := fmt.Sprintf(`min(count_over_time(up[%[1]s]) * min_over_time(up[%[1]s]))`, model.Duration(watched))
	harness.Eventually(t, alertWithin, "all nodes are scraped "+when, func(ctx context.Context) error {
		if since := time.Since(began); since < during {
			return fmt.Errorf("only %v have passed", since)
		}
		scrapes, err := w.p.Value(ctx, complete)
		if want := float64(watched/alertScrapes - 1); err == nil && scrapes < want {
			err = fmt.Errorf("a node was scraped %v times in %v", scrapes, watched)
		}
		return err
	})
	v, err := w.p.Vector(t.Context(), `count_over_time(ALERTS{alertstate="firing"}[`+model.Duration(during).String()+`])`)
	require.NoError(t, err)
	require.Empty(t, v, "alerts that fire "+when)
}

// run injects the faults of a stage one after the other, so that they last together, and ends them in the opposite order.
func (w *alertWorld) run(t *testing.T, stages [][]scenario) {
	t.Helper()
	for i, stage := range stages {
		t.Run(fmt.Sprintf("stage %d", i+1), func(t *testing.T) {
			var ends []func()
			var fire sync.WaitGroup
			for _, s := range stage {
				ends = append(ends, s.inject(t, w))
				for _, name := range s.alerts { // looked for at once: some last for a moment only
					fire.Go(func() { t.Run(name+" fires", func(t *testing.T) { w.waitFires(t, name) }) })
				}
			}
			fire.Wait()
			for _, end := range slices.Backward(ends) {
				end()
			}
			if t.Failed() {
				t.FailNow()
			}
			var resolve sync.WaitGroup
			for _, s := range stage {
				for _, name := range s.alerts {
					resolve.Go(func() { t.Run(name+" resolves", func(t *testing.T) { w.waitResolves(t, name) }) })
				}
			}
			resolve.Wait()
		})
		if t.Failed() {
			t.FailNow()
		}
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
