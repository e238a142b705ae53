package object

import (
	"context"
	"errors"
	"io"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/internal/tracing"
)

// WithTracing makes a span of every attempt that belongs to a sampled trace. It goes below WithRetry, which tells it the
// number of the attempt. p may be nil.
func WithTracing(b Bucket, p trace.TracerProvider) Bucket {
	if p == nil {
		return b
	}
	return &traced{b, tracing.New(p)}
}

type traced struct {
	Bucket
	tracer tracing.Tracer
}

// attemptKey finds the number of an attempt in its context.
type attemptKey struct{}

// withAttempt notes the number of an attempt where somebody will want it.
func withAttempt(ctx context.Context, attempt int) context.Context {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx
	}
	return context.WithValue(ctx, attemptKey{}, attempt)
}

func (t *traced) begin(ctx context.Context, op, name string) (context.Context, trace.Span) {
	ctx, s := t.tracer.Child(ctx, "S3 "+op, trace.WithSpanKind(trace.SpanKindClient))
	if s.IsRecording() {
		attempt, _ := ctx.Value(attemptKey{}).(int)
		s.SetAttributes(attribute.String("streamhouse.s3.operation", op), attribute.String("aws.s3.key", name),
			attribute.Int("streamhouse.s3.attempt", max(attempt, 1)))
	}
	return ctx, s
}

// end says what came of an attempt. That an object is there, or is not, is an answer and no failure.
func end(s trace.Span, err error) {
	if s.IsRecording() {
		s.SetAttributes(attribute.String("streamhouse.s3.outcome", outcomeOf(err)))
		if code := statusOf(err); code != 0 {
			s.SetAttributes(attribute.Int("http.response.status_code", code))
		}
		if !answered(err) {
			s.SetStatus(codes.Error, err.Error())
		}
	}
	s.End()
}

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrExists):
		return "exists"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, ErrDenied):
		return "denied"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	default:
		return "failed"
	}
}

// Put implements Bucket.
func (t *traced) Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error {
	ctx, s := t.begin(ctx, opPut, name)
	if s.IsRecording() {
		s.SetAttributes(attribute.Int64("streamhouse.s3.bytes", sizeBytes))
	}
	err := t.Bucket.Put(ctx, name, body, sizeBytes)
	end(s, err)
	return err
}

// Get implements Bucket. The span ends when the body is closed.
func (t *traced) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	ctx, s := t.begin(ctx, opGet, name)
	r, err := t.Bucket.Get(ctx, name, offset, length)
	if err != nil || !s.IsRecording() {
		end(s, err)
		return r, err
	}
	s.SetAttributes(attribute.Int64("streamhouse.s3.offset", offset), attribute.Int64("streamhouse.s3.bytes", length))
	body := &tracedReader{ReadCloser: r}
	body.end = sync.OnceFunc(func() { end(s, body.failed) })
	return body, nil
}

// tracedReader ends a span when it is closed, with the error of a body that broke off.
type tracedReader struct {
	io.ReadCloser
	failed error // the first one
	end    func()
}

// Read implements io.Reader.
func (r *tracedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && r.failed == nil && !errors.Is(err, io.EOF) {
		r.failed = err
	}
	return n, err //nolint:wrapcheck // a reader's callers compare its errors
}

// Close implements io.Closer.
func (r *tracedReader) Close() error {
	r.end()
	return r.ReadCloser.Close()
}

// Head implements Bucket.
func (t *traced) Head(ctx context.Context, name string) (Attributes, error) {
	ctx, s := t.begin(ctx, opHead, name)
	a, err := t.Bucket.Head(ctx, name)
	end(s, err)
	return a, err
}

// List implements Bucket.
func (t *traced) List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error) {
	ctx, s := t.begin(ctx, opList, prefix)
	page, more, err = t.Bucket.List(ctx, prefix, after)
	end(s, err)
	return page, more, err
}

// Delete implements Bucket.
func (t *traced) Delete(ctx context.Context, name string) error {
	ctx, s := t.begin(ctx, opDelete, name)
	err := t.Bucket.Delete(ctx, name)
	end(s, err)
	return err
}
