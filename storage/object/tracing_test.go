package object

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// bodies is a store whose objects have a body.
type bodies struct {
	Bucket
	body io.Reader
}

func (b bodies) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return io.NopCloser(b.body), nil
}

// A span of a GET tells of a body that broke off, and not of its end.
func TestSpanOfABodyThatBreaksOff(t *testing.T) {
	for outcome, body := range map[string]io.Reader{
		"ok":       strings.NewReader("12345"),
		"failed":   io.MultiReader(strings.NewReader("12"), iotest.ErrReader(io.ErrUnexpectedEOF)),
		"timeout":  iotest.ErrReader(context.DeadlineExceeded),
		"canceled": iotest.ErrReader(context.Canceled),
	} {
		t.Run(outcome, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
			ctx, parent := p.Tracer("test").Start(t.Context(), "parent")
			defer parent.End()
			r, err := WithTracing(bodies{body: body}, p).Get(ctx, "o", 0, 5)
			require.NoError(t, err)
			_, _ = io.ReadAll(r) // the span tells
			require.NoError(t, r.Close())
			require.NoError(t, r.Close())
			require.Len(t, spans.Ended(), 1)
			attrs := make(map[string]string)
			for _, a := range spans.Ended()[0].Attributes() {
				attrs[string(a.Key)] = a.Value.String()
			}
			require.Equal(t, outcome, attrs["streamhouse.s3.outcome"])
		})
	}
}
