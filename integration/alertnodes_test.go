//go:build root

package integration_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// startPartitionCluster starts the cluster whose nodes don't reach each other.
func startPartitionCluster(t *testing.T) *alertWorld {
	t.Helper()
	c := harness.StartCluster(t, harness.Options{Network: true, Flags: quick(map[string]string{
		"raft-heartbeat-timeout": "2s", "raft-election-timeout": "2s", "raft-lease-timeout": "2s",
	})})
	c.CreateTopic("orders", 3, nil)
	return &alertWorld{c: c}
}

// restlessLeaders calls elections of a shard one after the other, which is quicker than to wait until its leader is missed.
func restlessLeaders(t *testing.T, w *alertWorld) func() {
	t.Helper()
	next := 0
	return untilEnd(t, 500*time.Millisecond, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, callWithin)
		defer cancel()
		next++
		_, _ = w.c.Nodes[0].TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: 0, NodeId: w.c.Nodes[next%3].ID})
	})
}

// gossipCutOff lets a node's gossip not reach the others, who hear of it in all other ways.
func gossipCutOff(t *testing.T, w *alertWorld) func() {
	t.Helper()
	n := w.c.Nodes[2]
	w.c.Network.CutGossip(n, w.c.Others(n)...)
	return w.c.Network.HealGossip
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

// startCrashCluster starts the cluster whose nodes die.
func startCrashCluster(t *testing.T) *alertWorld {
	t.Helper()
	return &alertWorld{c: harness.StartCluster(t, harness.Options{Flags: steady(nil)})}
}

// quietWhenIdle wants no alert to fire while nothing happens but that a topic is created.
func quietWhenIdle(t *testing.T, w *alertWorld) {
	t.Helper()
	w.c.CreateTopic("orders", 3, nil)
	w.requireQuiet(t, 20*time.Second, "in an idle cluster with a new topic")
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
	n := w.c.Nodes[0]
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
	w.c.WaitInSync(syncWithin)
	return func() {}
}
