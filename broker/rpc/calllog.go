package rpc

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// callLog logs calls: failed ones by who is to blame, the node with errors, trouble in the cluster with warnings, and the
// clients' own mistakes for debugging only, as all calls that went well. That failures come in masses is the handler's
// business, which samples.
type callLog struct {
	log *slog.Logger
	all bool // calls that go well too; the level does not change, and to ask for it costs each call
}

func newCallLog(log *slog.Logger) callLog {
	return callLog{log: log, all: log.Enabled(context.Background(), slog.LevelDebug)}
}

// begin returns the time where somebody will want to know it.
func (c *callLog) begin() time.Time {
	if !c.all {
		return time.Time{}
	}
	return time.Now()
}

// ended logs a call that has ended. req and res may be nil.
func (c *callLog) ended(ctx context.Context, method string, began time.Time, req, res any, err error) {
	if err != nil {
		c.failed(ctx, method, req, err)
		return
	}
	if !c.all {
		return
	}
	attrs := append([]slog.Attr{slog.String("method", method)}, fieldsOf(req)...)
	attrs = append(attrs, resultOf(res)...)
	c.log.LogAttrs(ctx, slog.LevelDebug, "call", append(attrs, slog.Duration("took", time.Since(began)))...)
}

func (c *callLog) failed(ctx context.Context, method string, req any, err error) {
	st, _ := status.FromError(toStatus(err))
	level := levelOf(st.Code())
	if broker.AsError(err).Reason == streamhousev1.ErrorReason_ERROR_REASON_NOT_LEADER {
		level = slog.LevelDebug // another node asks the next one
	}
	if !c.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("method", method), slog.String("code", st.Code().String()), slog.String("error", st.Message())}
	if e, ok := errors.AsType[*broker.Error](err); ok {
		attrs = append(attrs, slog.String("reason", reasonName(e.Reason)))
		if e.Cause != nil {
			attrs = append(attrs, slog.String("cause", e.Cause.Error()))
		}
	}
	c.log.LogAttrs(ctx, level, "call failed", append(attrs, fieldsOf(req)...)...)
}

// fieldsOf returns what a request is about.
func fieldsOf(req any) []slog.Attr {
	var attrs []slog.Attr
	if r, ok := req.(interface{ GetTopic() string }); ok && r.GetTopic() != "" {
		attrs = append(attrs, slog.String("topic", clipped(r.GetTopic())))
	}
	if r, ok := req.(interface{ GetGroup() string }); ok && r.GetGroup() != "" {
		attrs = append(attrs, slog.String("group", clipped(r.GetGroup())))
	}
	if r, ok := req.(interface{ GetPartition() int32 }); ok {
		attrs = append(attrs, slog.Int("partition", int(r.GetPartition())))
	}
	if r, ok := req.(interface{ GetOffset() int64 }); ok {
		attrs = append(attrs, slog.Int64("offset", r.GetOffset()))
	}
	if r, ok := req.(interface{ GetShard() uint32 }); ok {
		attrs = append(attrs, slog.Uint64("shard", uint64(r.GetShard())))
	}
	if r, ok := req.(*nodev1.AppendRequest); ok && len(r.GetBatches()) > 0 {
		attrs = append(attrs, slog.String("topic", clipped(r.GetBatches()[0].GetTopic())), slog.Int("batches", len(r.GetBatches())))
	}
	return attrs
}

// maxNameBytes is the length of the longest name that a topic or a group can have.
const maxNameBytes = 249

// clipped returns what is written of a name: a client may send one as long as a request.
func clipped(name string) string {
	if len(name) <= maxNameBytes {
		return name
	}
	return name[:maxNameBytes] + "…"
}

// resultOf returns what came of a request.
func resultOf(res any) []slog.Attr {
	switch r := res.(type) {
	case *streamhousev1.ProduceResponse:
		return []slog.Attr{slog.Int64("offset", r.GetOffset()), slog.Int("records", 1)}
	case interface {
		GetBatches() []*streamhousev1.WrittenBatch
	}:
		records := 0
		for _, b := range r.GetBatches() {
			records += int(b.GetRecords())
		}
		if records == 0 {
			return nil
		}
		return []slog.Attr{slog.Int64("base_offset", r.GetBatches()[0].GetBaseOffset()), slog.Int("records", records)}
	case *streamhousev1.ConsumeResponse:
		return []slog.Attr{slog.Int("records", len(r.GetRecords())), slog.Int64("next_offset", r.GetNextOffset())}
	default:
		return nil
	}
}

func levelOf(code codes.Code) slog.Level {
	switch code {
	case codes.Internal, codes.DataLoss, codes.Unknown:
		return slog.LevelError
	case codes.Unavailable, codes.ResourceExhausted:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}
