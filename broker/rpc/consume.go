package rpc

import (
	"context"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// Consume implements the RPC.
func (h *serviceHandler) Consume(ctx context.Context, req *streamhousev1.ConsumeRequest) (*streamhousev1.ConsumeResponse, error) {
	return h.broker.Consume(ctx, req)
}

// ConsumeRecordBatches implements the RPC.
func (h *serviceHandler) ConsumeRecordBatches(ctx context.Context, req *streamhousev1.ConsumeRecordBatchesRequest) (*streamhousev1.ConsumeRecordBatchesResponse, error) {
	return h.broker.ConsumeRecordBatches(ctx, req)
}

// ConsumeStream implements the RPC.
func (h *serviceHandler) ConsumeStream(req *streamhousev1.ConsumeStreamRequest, s streamhousev1.StreamHouseService_ConsumeStreamServer) error {
	err := h.broker.ConsumeStream(s.Context(), req, s.Send)
	if err != nil && s.Context().Err() == nil {
		h.broker.CountConsumeError(req.GetTopic(), req.GetGroup(), err)
	}
	return err
}
