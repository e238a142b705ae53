package rpc

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/cputime"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// headers are those that a client of gRPC sends.
var headers = &tap.Info{Header: metadata.Pairs(":authority", "x", "content-type", "application/grpc", "user-agent", "grpc-go")}

// called does all that counting, logging and tracing do for a call that goes well, on each node that serves it, with tracing
// off and the log at info.
func called(ctx context.Context, log *callLog, req, res any) {
	ctx, err := tracing.Take(ctx, headers)
	began := log.begin()
	log.ended(ctx, streamhousev1.StreamHouseService_ProduceBatch_FullMethodName, began, req, res, err)
}

func infoLog() *callLog {
	l := newCallLog(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	return &l
}

func TestInstrumentationAllocatesNothing(t *testing.T) {
	log, ctx := infoLog(), t.Context()
	req, res := &streamhousev1.ProduceBatchRequest{Topic: "orders"}, &streamhousev1.ProduceBatchResponse{}
	require.Zero(t, testing.AllocsPerRun(1000, func() { called(ctx, log, req, res) }))
}

func BenchmarkInstrumentation(b *testing.B) {
	b.Run("called", func(b *testing.B) {
		log, ctx := infoLog(), b.Context()
		req, res := &streamhousev1.ProduceBatchRequest{Topic: "orders"}, &streamhousev1.ProduceBatchResponse{}
		cputime.Bench(b, 1, func() { called(ctx, log, req, res) })
	})
}
