package object

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/internal/tracing"
)

// The operations, as S3 and the metrics name them.
const (
	opPut    = "PUT"
	opGet    = "GET"
	opHead   = "HEAD"
	opList   = "LIST"
	opDelete = "DELETE"
)

var operations = []string{opPut, opGet, opHead, opList, opDelete}

// The error types of the metrics.
const (
	errorRetry  = "retry"  // an attempt failed and is tried again
	errorFailed = "failed" // given up
)

// Metrics counts attempts on an object store. Safe for concurrent use.
type Metrics struct {
	requests *prometheus.CounterVec
	errors   *prometheus.CounterVec
	latency  *prometheus.HistogramVec
}

// NewMetrics registers the metrics, all series at 0; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_s3_requests_total", Help: "Attempts on the object store.",
		}, []string{"operation"}),
		errors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_s3_errors_total", Help: "Failed attempts on the object store: tried again (retry) or given up (failed).",
		}, []string{"operation", "error_type"}),
		latency: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "streamhouse_s3_latency_seconds", Help: "Time of an attempt on the object store, failed ones too.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}, []string{"operation"}),
	}
	for _, op := range operations {
		m.requests.WithLabelValues(op)
		m.latency.WithLabelValues(op)
		m.errors.WithLabelValues(op, errorRetry)
		m.errors.WithLabelValues(op, errorFailed)
	}
	return m
}

// begin counts an attempt and returns what observes its end, with the trace that it belongs to as an exemplar.
func (m *Metrics) begin(ctx context.Context, op string) (end func()) {
	began := time.Now()
	m.requests.WithLabelValues(op).Inc()
	sc := trace.SpanContextFromContext(ctx)
	return func() { tracing.Observe(m.latency.WithLabelValues(op), time.Since(began).Seconds(), sc) }
}

func (m *Metrics) failed(op, kind string) { m.errors.WithLabelValues(op, kind).Inc() }

// answered says whether an error is an answer of a store that works, and no failure.
func answered(err error) bool {
	return err == nil || errors.Is(err, ErrExists) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrInvalidName)
}

// WithMetrics counts every call as an attempt; errors are counted by WithRetry around it, which knows what comes of them.
func WithMetrics(b Bucket, m *Metrics) Bucket { return &counted{b, m} }

type counted struct {
	Bucket
	m *Metrics
}

// Put implements Bucket.
func (c *counted) Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error {
	defer c.m.begin(ctx, opPut)()
	return c.Bucket.Put(ctx, name, body, sizeBytes)
}

// Get implements Bucket. The attempt ends with the last byte read.
func (c *counted) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	end := c.m.begin(ctx, opGet)
	r, err := c.Bucket.Get(ctx, name, offset, length)
	if err != nil {
		end()
		return nil, err
	}
	return &countedReader{ReadCloser: r, end: sync.OnceFunc(end)}, nil
}

type countedReader struct {
	io.ReadCloser
	end func()
}

// Close implements io.Closer.
func (r *countedReader) Close() error {
	r.end()
	return r.ReadCloser.Close()
}

// Head implements Bucket.
func (c *counted) Head(ctx context.Context, name string) (Attributes, error) {
	defer c.m.begin(ctx, opHead)()
	return c.Bucket.Head(ctx, name)
}

// List implements Bucket.
func (c *counted) List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error) {
	defer c.m.begin(ctx, opList)()
	return c.Bucket.List(ctx, prefix, after)
}

// Delete implements Bucket.
func (c *counted) Delete(ctx context.Context, name string) error {
	defer c.m.begin(ctx, opDelete)()
	return c.Bucket.Delete(ctx, name)
}
