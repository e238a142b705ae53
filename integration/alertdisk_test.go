//go:build root

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// alertDiskBytes is the size of the disk that fills and stalls.
const alertDiskBytes = 1 << 30

// startDiskCluster starts a node with a disk of its own.
func startDiskCluster(t *testing.T) *alertWorld {
	t.Helper()
	disk := harness.NewDisk(t, alertDiskBytes)
	c := harness.NewCluster(t, harness.Options{Nodes: 1, Flags: quick(map[string]string{
		"upload-interval": "200ms", "checkpoint-bytes": "64KiB", "log-retain-bytes": "0", "tail-bytes": "0",
		"cache-bytes":   "8MiB",
		"disk-min-free": "128MiB",
	})})
	c.Nodes[0].Dir = disk.Dir
	c.Start()
	c.WaitInSync(syncWithin)
	// One for each shard: one fault is not to touch the others' records.
	for _, topic := range []string{"history", "damaged", "stalled"} {
		c.CreateTopic(topic, 1, nil)
	}
	require.ElementsMatch(t, []string{"/0/", "/1/", "/2/"}, []string{
		objectsOf(c, "history"), objectsOf(c, "damaged"), objectsOf(c, "stalled"),
	})
	return &alertWorld{c: c, disk: disk}
}

// coldReads reads more history than the cache holds, again and again.
func coldReads(t *testing.T, w *alertWorld) func() {
	t.Helper()
	const objects = 12 // of one block each
	value := strings.Repeat("h", 1<<20)
	for range objects {
		_, err := produce(call(t), w.c.Nodes[0], "history", 0, value, streamhousev1.Acks_ACKS_DURABLE)
		require.NoError(t, err)
	}
	next := int64(0)
	return untilEnd(t, 50*time.Millisecond, func(ctx context.Context) {
		_, _ = w.c.Nodes[0].Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "history", Offset: next % objects, MaxRecords: 1})
		next++
	})
}

// goneObject reads a record whose object is missing for the moment.
func goneObject(t *testing.T, w *alertWorld) func() {
	t.Helper()
	n := w.c.Nodes[0]
	gone := w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodGet}, Key: objectsOf(w.c, "damaged"), Status: http.StatusNotFound})
	harness.Eventually(t, syncWithin, "a read of a missing object says so", func(ctx context.Context) error {
		// The log is cut once something comes behind what was uploaded.
		if _, err := produce(ctx, n, "damaged", 0, strings.Repeat("d", 32<<10), streamhousev1.Acks_ACKS_DURABLE); err != nil {
			return err
		}
		if _, err := consume(ctx, n, "damaged", 0, 0, 0); !harness.IsCode(err, codes.DataLoss, "CORRUPT_DATA") {
			return fmt.Errorf("it says %w", errors.Join(errors.New("another thing"), err))
		}
		return nil
	})
	return gone
}

// oneRefusedUpload lets the object store refuse one PUT, once.
func oneRefusedUpload(t *testing.T, w *alertWorld) func() {
	t.Helper()
	w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: objectsOf(w.c, "stalled"), Status: http.StatusForbidden, Times: 1})
	_, err := produce(call(t), w.c.Nodes[0], "stalled", 0, "v", 0)
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

// fullDisk gives all but a little more than --disk-min-free to a file.
func fullDisk(t *testing.T, w *alertWorld) func() {
	t.Helper()
	free := int64(w.c.Nodes[0].MustScrape(t).Sum("streamhouse_disk_free_bytes", nil))
	const left = 192 << 20
	require.Greater(t, free, int64(2*left), "the disk is nearly full before")
	return w.disk.Fill(free - left)
}

// stalledDisk lets a write wait for the disk.
func stalledDisk(t *testing.T, w *alertWorld) func() {
	t.Helper()
	w.disk.Stall()
	write := untilEnd(t, 100*time.Millisecond, func(ctx context.Context) {
		_, _ = produce(ctx, w.c.Nodes[0], "stalled", 0, "v", 0)
	})
	return func() {
		write()
		w.disk.Resume()
	}
}
