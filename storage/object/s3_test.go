package object_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/object"
)

// fakeS3 answers each request by the next of its answers, and 404 when there is none left.
type fakeS3 struct {
	mu      sync.Mutex
	answers []http.HandlerFunc
	seen    []string
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	f.mu.Lock()
	f.seen = append(f.seen, r.Method)
	answer := status(http.StatusNotFound)
	if len(f.answers) > 0 {
		answer, f.answers = f.answers[0], f.answers[1:]
	}
	f.mu.Unlock()
	answer(w, r)
}

// requests are the methods of the requests so far.
func (f *fakeS3) requests() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.seen, " ")
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func size(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", fmt.Sprint(n)) }
}

// hang answers when the client has given up.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// startS3 returns a bucket with retries and metrics over a server that answers so.
func startS3(t *testing.T, answers ...http.HandlerFunc) (object.Bucket, *fakeS3, *prometheus.Registry) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	f := &fakeS3{answers: answers}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	b, err := object.Open(t.Context(), "s3://bucket/prefix?region=eu-west-1&path_style=true&endpoint="+srv.URL)
	require.NoError(t, err)
	reg := prometheus.NewPedanticRegistry()
	m := object.NewMetrics(reg)
	return object.WithRetry(object.WithMetrics(b, m), object.RetryConfig{
		Tries: 3, MinBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond, AttemptTimeout: 500 * time.Millisecond, Metrics: m,
	}), f, reg
}

// only-minio-tested: what real stores do and a small test server does not: slow down, fail, answer late or never.
func TestOnlyMinioTested(t *testing.T) {
	five := bytes.NewReader([]byte("12345"))
	for name, tt := range map[string]struct {
		answers  []http.HandlerFunc
		want     error
		requests string
		retries  int
		failed   int
	}{
		"at once":                 {[]http.HandlerFunc{status(200)}, nil, "PUT", 0, 0},
		"slow down":               {[]http.HandlerFunc{status(503), status(500), status(200)}, nil, "PUT PUT PUT", 2, 0},
		"given up":                {[]http.HandlerFunc{status(503), status(503), status(503)}, object.ErrUnavailable, "PUT PUT PUT", 2, 1},
		"refused":                 {[]http.HandlerFunc{status(403)}, object.ErrDenied, "PUT", 0, 1},
		"there already":           {[]http.HandlerFunc{status(412)}, object.ErrExists, "PUT", 0, 0},
		"two creates at once":     {[]http.HandlerFunc{status(409), status(412), size(4)}, object.ErrExists, "PUT PUT HEAD", 1, 0},
		"its answer was lost":     {[]http.HandlerFunc{hang, status(412), size(5)}, nil, "PUT PUT HEAD", 1, 0},
		"never an answer":         {[]http.HandlerFunc{hang, hang, hang}, context.DeadlineExceeded, "PUT PUT PUT", 2, 1},
		"lost, and another's own": {[]http.HandlerFunc{hang, status(412), size(6)}, object.ErrExists, "PUT PUT HEAD", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b, f, reg := startS3(t, tt.answers...)
			require.ErrorIs(t, b.Put(t.Context(), "o", five, 5), tt.want)
			require.Equal(t, tt.requests, f.requests())
			require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
				# HELP streamhouse_s3_errors_total Failed attempts on the object store: tried again (retry) or given up (failed).
				# TYPE streamhouse_s3_errors_total counter
				streamhouse_s3_errors_total{error_type="failed",operation="DELETE"} 0
				streamhouse_s3_errors_total{error_type="failed",operation="GET"} 0
				streamhouse_s3_errors_total{error_type="failed",operation="HEAD"} 0
				streamhouse_s3_errors_total{error_type="failed",operation="LIST"} 0
				streamhouse_s3_errors_total{error_type="failed",operation="PUT"} %d
				streamhouse_s3_errors_total{error_type="retry",operation="DELETE"} 0
				streamhouse_s3_errors_total{error_type="retry",operation="GET"} 0
				streamhouse_s3_errors_total{error_type="retry",operation="HEAD"} 0
				streamhouse_s3_errors_total{error_type="retry",operation="LIST"} 0
				streamhouse_s3_errors_total{error_type="retry",operation="PUT"} %d
			`, tt.failed, tt.retries)), "streamhouse_s3_errors_total"))
		})
	}
}

// zombie-upload: S3 is told never to replace an object.
func TestZombieUploadToS3(t *testing.T) {
	conditions := make(chan string, 1)
	b, _, _ := startS3(t, func(w http.ResponseWriter, r *http.Request) {
		conditions <- r.Header.Get("If-None-Match")
		w.WriteHeader(http.StatusPreconditionFailed)
	})
	require.ErrorIs(t, b.Put(t.Context(), "o", bytes.NewReader([]byte("12345")), 5), object.ErrExists)
	require.Equal(t, "*", <-conditions)
}

// Who gives up waiting, as a leader does that hands over, is no failure of the store.
func TestS3CanceledCallIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b, _, reg := startS3(t, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		hang(w, r)
	})
	require.ErrorIs(t, b.Put(ctx, "o", bytes.NewReader([]byte("12345")), 5), context.Canceled)
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "streamhouse_s3_errors_total" {
			require.Len(t, f.GetMetric(), 10)
			for _, m := range f.GetMetric() {
				require.Zero(t, m.GetCounter().GetValue(), m)
			}
		}
	}
}

// A body that breaks off is read again, and never given out short.
func TestS3BrokenBody(t *testing.T) {
	breaks := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = w.Write([]byte("0123"))
	}
	whole := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("0123456789")) }
	b, f, _ := startS3(t, breaks, whole)
	r, err := b.Get(t.Context(), "o", 0, 10)
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, "0123456789", string(got))
	require.Equal(t, "GET GET", f.requests())
}

// Each page of a listing is a request, and is tried again by itself.
func TestS3ListIsCountedByPage(t *testing.T) {
	page := func(truncated bool, names ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `<ListBucketResult><IsTruncated>%t</IsTruncated>`, truncated)
			for _, n := range names {
				_, _ = fmt.Fprintf(w, `<Contents><Key>prefix/%s</Key><Size>1</Size></Contents>`, n)
			}
			_, _ = fmt.Fprint(w, `</ListBucketResult>`)
		}
	}
	var after atomic.Value
	second := func(w http.ResponseWriter, r *http.Request) {
		after.Store(r.URL.Query().Get("start-after"))
		page(false, "c")(w, r)
	}
	b, _, reg := startS3(t, page(true, "a", "b"), status(503), second)
	var names []string
	require.NoError(t, object.All(t.Context(), b, "", func(a object.Attributes) error {
		names = append(names, a.Name)
		return nil
	}))
	require.Equal(t, []string{"a", "b", "c"}, names)
	require.Equal(t, "prefix/b", after.Load())
	n, err := testutil.GatherAndCount(reg, "streamhouse_s3_requests_total")
	require.NoError(t, err)
	require.Equal(t, 5, n)
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, mf := range families {
		for _, m := range mf.GetMetric() {
			if mf.GetName() == "streamhouse_s3_requests_total" && m.GetLabel()[0].GetValue() == "LIST" {
				require.InDelta(t, 3, m.GetCounter().GetValue(), 0)
			}
		}
	}
}
