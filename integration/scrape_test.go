package integration_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// countSeries is how many series of ours all nodes have.
func countSeries(t *testing.T, c *harness.Cluster) int {
	t.Helper()
	n := 0
	for _, m := range scrapeAll(t, c) {
		for name, f := range m {
			if strings.HasPrefix(name, "streamhouse_") {
				n += len(f.GetMetric())
			}
		}
	}
	return n
}

// Names that nothing in the cluster has make no series, however many there are: the calls are counted under "".
func TestHostileNamesMakeNoSeries(t *testing.T) {
	t.Parallel()
	const names = 10_000
	c := harness.StartCluster(t, harness.Options{Flags: steady(map[string]string{"shards": "1"})})
	c.CreateTopic("orders", 1, nil)
	_, err := produce(call(t), c.Nodes[0], "orders", 0, "x", 0)
	require.NoError(t, err)
	for _, n := range c.Nodes { // each knows the topic by now
		_, err := consume(call(t), n, "orders", 0, 0, 0)
		require.NoError(t, err)
	}
	before, first := countSeries(t, c), scrapeAll(t, c)

	var wg sync.WaitGroup
	const workers = 24 // they share the barriers behind which unknown topics are looked up
	for worker := range workers {
		wg.Go(func() {
			for i := worker; i < names; i += workers {
				hostileCalls(t.Context(), c.Nodes[i%3], fmt.Sprintf("nobody-%d", i))
			}
		})
	}
	wg.Wait()
	calls := func(metric string, labels harness.Labels) (sum float64) {
		for id, m := range scrapeAll(t, c) {
			sum += moved(first[id], m, metric, labels)
		}
		return sum
	}
	harness.Eventually(t, time.Minute, "all is counted without a group", func(context.Context) error {
		if n := calls("streamhouse_consumer_records_total", harness.Labels{"topic": "orders", "consumer_group": ""}); n != names {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	require.InDelta(t, names, calls("streamhouse_producer_errors_total", harness.Labels{"topic": ""}), 0)
	require.InDelta(t, names, calls("streamhouse_consumer_errors_total", harness.Labels{"topic": "", "consumer_group": ""}), 0, "consumed")
	require.InDelta(t, 2*names, calls("streamhouse_consumer_errors_total", nil), 0, "and committed")
	require.Equal(t, before, countSeries(t, c))
	t.Logf("%d names, %d series before and after", names, before)
}

// hostileCalls name a topic and a group that do not exist.
func hostileCalls(ctx context.Context, n *harness.Node, name string) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	_, _ = produce(ctx, n, name, 0, "x", 0)
	_, _ = consume(ctx, n, name, 0, 0, 0)
	_, _ = n.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "orders", Group: name})
	_ = commit(name, "orders", &streamhousev1.CommittedOffset{Offset: 1 << 40})(ctx, n)
	_, _ = n.GetOffset(ctx, &streamhousev1.GetOffsetRequest{Group: name, Topic: "orders"})
}

// Scrapers that hang, and a thousand at once, cost a node bounded memory, and its producers nothing: every record is
// acknowledged, and every scrape gets an answer.
func TestScrapersDoNotDisturb(t *testing.T) {
	t.Parallel()
	const hanging, parallel = 200, 1000
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	for i := range 200 { // an answer has more than a megabyte
		c.CreateTopic(fmt.Sprintf("topic-%d", i), 1, nil)
	}
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, Every: 10 * time.Millisecond})
	ledger.WaitAcked(t, 100, syncWithin)
	n := c.Nodes[0]
	resident := func() float64 { return n.MustScrape(t).Sum("process_resident_memory_bytes", nil) }
	before := resident()

	var dialer net.Dialer
	for range hanging {
		conn, err := dialer.DialContext(t.Context(), "tcp", n.HTTPAddr)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
		_, err = fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n", n.HTTPAddr)
		require.NoError(t, err)
	}
	ledger.WaitAcked(t, 200, syncWithin)
	answers := scrapeAtOnce(t, n, parallel)
	require.Equal(t, parallel, answers[http.StatusOK]+answers[http.StatusServiceUnavailable], "%v", answers)
	ledger.WaitAcked(t, 200, syncWithin)
	require.NoError(t, n.CheckLive(t.Context()))
	require.NoError(t, n.CheckReady(t.Context()))
	var after float64
	harness.Eventually(t, time.Minute, "a scrape goes through", func(ctx context.Context) error {
		m, err := n.Metrics(ctx)
		after = m.Sum("process_resident_memory_bytes", nil)
		return err
	})
	require.Less(t, after-before, float64(256<<20))
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
	t.Logf("%d records acknowledged beside %d hanging scrapers and %d scrapes (%v); memory went from %.0f to %.0f MiB",
		ledger.Acked(), hanging, parallel, answers, before/(1<<20), after/(1<<20))
}

// scrapeAtOnce returns how often each status was answered.
func scrapeAtOnce(t *testing.T, n *harness.Node, scrapes int) map[int]int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	statuses := make(chan int, scrapes)
	for range scrapes {
		go func() { // joined by the receives
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL("/metrics"), http.NoBody)
			if err != nil {
				statuses <- 0
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				statuses <- 0
				return
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				statuses <- -1
			} else {
				statuses <- resp.StatusCode
			}
			_ = resp.Body.Close()
		}()
	}
	answers := make(map[int]int)
	for range scrapes {
		answers[<-statuses]++
	}
	return answers
}
