package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// counts is what there was of something at a time when the script had come to its end.
func counts(m map[string]float64) float64 {
	sum := 0.0
	for _, n := range m {
		sum += n
	}
	return sum
}

// plus is a truth: what the script did, and what a load has done since.
func plus(script float64, since func() float64) func(context.Context) (float64, error) {
	return func(context.Context) (float64, error) { return script + since(), nil }
}

// kept leaves out the topic that was deleted, which the script no longer counts.
const kept = `topic!="short-lived",`

// attemptTimeout is when a node gives up an attempt on S3.
const attemptTimeout = 30 * time.Second

// limits are the truth of each counter of the contract: of what the script did, and the load l does.
func (w *workload) limits(l *countedLoad, ps *processes) []limit {
	w.t.Helper()
	survivor := l.survivors[0]
	// Each batch is sent once, and so stored once at most.
	stored := func(script map[string]float64, each float64) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			ends, err := survivor.HighWatermarks(ctx, "feed")
			return counts(script) + each*float64(ends[0]+ends[1])/loadRecords, err
		}
	}
	// What the script waited for is told by its last scrape; each call takes longer than the leader's part of it.
	waited, err := ps.total(w.t.Context(), "streamhouse_producer_latency_seconds_sum", kept)
	require.NoError(w.t, err)
	lives := func() float64 { return 2 } // of the node that reads history, under this load
	limits := []limit{
		{"streamhouse_producer_records_total", kept, stored(w.records, loadRecords)},
		{"streamhouse_producer_bytes_total", kept, stored(w.bytes, loadRecords*loadValueBytes)},
		{"streamhouse_producer_batch_size_count", kept, stored(w.batches, 1)},
		{"streamhouse_producer_batch_size_sum", kept, stored(w.records, loadRecords)},
		{"streamhouse_producer_latency_seconds_count", kept, stored(w.acks, 1)},
		{"streamhouse_producer_latency_seconds_sum", kept, plus(waited, l.writes.seconds)},
		{"streamhouse_producer_errors_total", kept, plus(counts(w.produceErrors), func() float64 { return l.writes.failed() + l.refused.failed() })},
		{"streamhouse_consumer_records_total", kept, plus(counts(w.consumed), func() float64 { return l.reads.served(loadReads) + l.history.served(archived) })},
		{"streamhouse_consumer_errors_total", kept, plus(counts(w.consumeErrors), func() float64 { return l.reads.failed() + l.history.failed() + l.asks.failed() })},
		{"streamhouse_consumer_rebalances_total", "", generations(survivor)},
		{"streamhouse_segment_writes_total", kept, plus(counts(w.writes), l.segmentsPut)},
		{"streamhouse_segment_flushes_total", kept, l.segmentsStored},
		{"streamhouse_cache_hits_total", "", plus(w.hits, func() float64 { return l.history.calls()*archiveBlocks + lives() })},
		{"streamhouse_cache_misses_total", "", plus(w.misses, func() float64 { return lives()*archiveBlocks + l.gets() })},
	}
	return append(limits, w.limitsOfS3()...)
}

// survivors are the replicas beside the leader.
func (w *workload) survivors() []*harness.Node {
	others := w.c.Others(w.c.ShardLeader(0))
	return slices.DeleteFunc(others, func(n *harness.Node) bool { return n == w.outsider })
}

// generations is how many groups have begun: each change of their members is one.
func generations(n *harness.Node) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		sum := 0.0
		for _, group := range []string{groupName, "churn"} {
			err := harness.Retry(ctx, []*harness.Client{n.Client}, func(ctx context.Context, c *harness.Client) error {
				res, err := c.DescribeGroup(ctx, &streamhousev1.DescribeGroupRequest{Group: group})
				sum += float64(res.GetEpoch())
				return err
			})
			if err != nil {
				return 0, err
			}
		}
		return sum, nil
	}
}

// putObjects are the objects that S3 was sent.
func (w *workload) putObjects() map[string]bool {
	keys := make(map[string]bool)
	for _, r := range w.c.Proxy.Requests() {
		if r.Method == http.MethodPut && strings.HasSuffix(r.Key, ".seg") {
			keys[r.Key] = true
		}
	}
	return keys
}

// storedObjects is how many S3 has.
func (w *workload) storedObjects(ctx context.Context) (int, error) {
	objects, err := w.c.Gateway.Objects(ctx, harness.Bucket, "")
	n := 0
	for key := range objects {
		if strings.HasSuffix(key, ".seg") {
			n++
		}
	}
	return n, err
}

// segmentsPut is how many segments were cut under the load: no object has more than one of each of its partitions.
func (l *countedLoad) segmentsPut() float64 { return 2 * float64(len(l.w.putObjects())-len(l.puts)) }

// gets is how often S3 was asked for what was uploaded under the load, of which each object is one block: a replica that is
// behind what is uploaded reads that.
func (l *countedLoad) gets() float64 {
	n := 0.0
	for _, r := range l.w.c.Proxy.Requests() {
		if r.Method == http.MethodGet && strings.HasSuffix(r.Key, ".seg") && !l.puts[r.Key] {
			n++
		}
	}
	return n
}

// segmentsStored is how many segments there are.
func (l *countedLoad) segmentsStored(ctx context.Context) (float64, error) {
	n, err := l.w.storedObjects(ctx)
	return counts(l.w.flushes) + 2*float64(n-l.stored), err
}

// limitsOfS3 are what S3 saw.
func (w *workload) limitsOfS3() []limit {
	var limits []limit
	for _, op := range operations {
		labels := fmt.Sprintf("operation=%q,", op)
		seen := func(is func(harness.Request) bool) func(context.Context) (float64, error) {
			return func(context.Context) (float64, error) {
				n := 0.0
				for _, r := range w.c.Proxy.Requests() {
					if r.Method == op && is(r) {
						n++
					}
				}
				return n, nil
			}
		}
		all := seen(func(harness.Request) bool { return true })
		// A request that was not answered may have failed. Where nothing is, or something is already, S3 says so.
		bad := seen(func(r harness.Request) bool {
			return r.Status != http.StatusNotFound && r.Status != http.StatusPreconditionFailed && (r.Status == 0 || r.Status >= http.StatusBadRequest)
		})
		longest := func(ctx context.Context) (float64, error) {
			n, err := all(ctx)
			return n * attemptTimeout.Seconds(), err
		}
		limits = append(limits,
			limit{"streamhouse_s3_requests_total", labels, all},
			limit{"streamhouse_s3_latency_seconds_count", labels, all},
			limit{"streamhouse_s3_latency_seconds_sum", labels, longest},
			limit{"streamhouse_s3_errors_total", labels, bad})
	}
	return limits
}
