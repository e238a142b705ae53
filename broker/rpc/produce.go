package rpc

import (
	"context"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// InitProducer implements the RPC.
func (h *serviceHandler) InitProducer(ctx context.Context, req *streamhousev1.InitProducerRequest) (*streamhousev1.InitProducerResponse, error) {
	return h.broker.InitProducer(ctx, req)
}

// Produce implements the RPC.
func (h *serviceHandler) Produce(ctx context.Context, req *streamhousev1.ProduceRequest) (*streamhousev1.ProduceResponse, error) {
	return h.broker.Produce(ctx, req)
}

// ProduceBatch implements the RPC.
func (h *serviceHandler) ProduceBatch(ctx context.Context, req *streamhousev1.ProduceBatchRequest) (*streamhousev1.ProduceBatchResponse, error) {
	return h.broker.ProduceBatch(ctx, req)
}

// ProduceRecordBatches implements the RPC.
func (h *serviceHandler) ProduceRecordBatches(ctx context.Context, req *streamhousev1.ProduceRecordBatchesRequest) (*streamhousev1.ProduceRecordBatchesResponse, error) {
	return h.broker.ProduceRecordBatches(ctx, req)
}
