package benchmarks

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// usage returns what /proc says of a process: resident MB and the CPU seconds that it has used.
func usage(b *testing.B, pid int) (residentMB, cpuSeconds float64) {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// Behind the name, which is in brackets, the fields are numbered from 3.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	number := func(field int) float64 {
		v, err := strconv.ParseFloat(fields[field-3], 64)
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
	const ticksPerSecond = 100
	return number(24) * float64(os.Getpagesize()) / 1e6, (number(14) + number(15)) / ticksPerSecond
}

// BenchmarkIdle measures nodes that have 1,000 partitions and nothing to do.
func BenchmarkIdle(b *testing.B) {
	b.Run("partitions=1000", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: map[string]string{"disk-min-free": "0"}})
		c.CreateTopic(topicName, 1000, nil)
		c.WaitInSync(time.Minute)
		var resident, cpu []float64
		for b.Loop() {
			idle(b.Context(), pick(20*time.Second, 100*time.Millisecond)) // let what the creation left behind pass
			before := make(map[string]float64)
			for _, n := range c.Nodes {
				_, before[n.ID] = usage(b, n.Process().PID())
			}
			start := time.Now()
			idle(b.Context(), pick(30*time.Second, time.Second))
			took := time.Since(start).Seconds()
			for _, n := range c.Nodes {
				mb, seconds := usage(b, n.Process().PID())
				resident = append(resident, mb)
				cpu = append(cpu, 100*(seconds-before[n.ID])/took)
			}
		}
		b.Logf("resident MB %.0f, %% of a core %.1f", resident, cpu)
		b.ReportMetric(percentile(resident, 100), "MB-resident")
		note(b, "idle with 1,000 partitions: resident, worst node", percentile(resident, 100), "MB", atMost(200))
		note(b, "idle with 1,000 partitions: CPU, worst node", percentile(cpu, 100), "% of a core", atMost(5))
	})
}

// idle lets time pass: that is what is measured.
func idle(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// BenchmarkRestart starts a node that has 1 GiB of log after kill -9.
func BenchmarkRestart(b *testing.B) {
	b.Run("log=1GiB", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(map[string]string{
			"checkpoint-bytes": "32GiB", "log-max-bytes": "64GiB", "upload-bytes": "4GiB", "upload-interval": "24h",
		})})
		to := leaders(c, c.CreateTopic(topicName, 3, nil))
		load(b, to, 5*time.Minute, pick(int64(1<<30), 2<<20), 16)
		c.WaitInSync(2 * time.Minute)
		logBytes := c.Nodes[1].MustScrape(b).Sum("streamhouse_shard_log_bytes", nil)
		var ready, inSync []float64
		for b.Loop() {
			for range pick(5, 1) {
				n := c.Nodes[1]
				n.Kill()
				start := time.Now()
				n.Start()
				harness.Eventually(b, 2*time.Minute, "the node is ready", n.CheckReady)
				ready = append(ready, time.Since(start).Seconds())
				c.WaitInSync(2 * time.Minute)
				inSync = append(inSync, time.Since(start).Seconds())
			}
		}
		b.ReportMetric(median(ready), "s/restart")
		note(b, fmt.Sprintf("restart with %.0f MiB of log: ready", logBytes/(1<<20)), median(ready), "s", atMost(5))
		note(b, "the same: replicas in sync", median(inSync), "s", nil)
	})
}
