package object

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
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

func (m *Metrics) observe(op string, began time.Time) {
	m.requests.WithLabelValues(op).Inc()
	m.latency.WithLabelValues(op).Observe(time.Since(began).Seconds())
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
	defer c.m.observe(opPut, time.Now())
	return c.Bucket.Put(ctx, name, body, sizeBytes)
}

// Get implements Bucket. The attempt ends with the last byte read.
func (c *counted) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	began := time.Now()
	r, err := c.Bucket.Get(ctx, name, offset, length)
	if err != nil {
		c.m.observe(opGet, began)
		return nil, err
	}
	return &countedReader{ReadCloser: r, m: c.m, began: began}, nil
}

type countedReader struct {
	io.ReadCloser
	m      *Metrics
	began  time.Time
	closed bool
}

// Close implements io.Closer.
func (r *countedReader) Close() error {
	if !r.closed {
		r.closed = true
		r.m.observe(opGet, r.began)
	}
	return r.ReadCloser.Close()
}

// Head implements Bucket.
func (c *counted) Head(ctx context.Context, name string) (Attributes, error) {
	defer c.m.observe(opHead, time.Now())
	return c.Bucket.Head(ctx, name)
}

// List implements Bucket.
func (c *counted) List(ctx context.Context, prefix string, fn func(Attributes) error) error {
	defer c.m.observe(opList, time.Now())
	return c.Bucket.List(ctx, prefix, fn)
}

// Delete implements Bucket.
func (c *counted) Delete(ctx context.Context, name string) error {
	defer c.m.observe(opDelete, time.Now())
	return c.Bucket.Delete(ctx, name)
}
