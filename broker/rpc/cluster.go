package rpc

import (
	"context"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// clusterHandler handles ClusterService.
type clusterHandler struct {
	streamhousev1.UnimplementedClusterServiceServer

	broker *broker.Broker
}

var _ streamhousev1.ClusterServiceServer = (*clusterHandler)(nil)

// GetClusterStatus implements the RPC.
func (h *clusterHandler) GetClusterStatus(ctx context.Context, req *streamhousev1.GetClusterStatusRequest) (*streamhousev1.GetClusterStatusResponse, error) {
	return h.broker.GetClusterStatus(ctx, req)
}

// DrainNode implements the RPC.
func (h *clusterHandler) DrainNode(ctx context.Context, req *streamhousev1.DrainNodeRequest) (*streamhousev1.DrainNodeResponse, error) {
	return h.broker.DrainNode(ctx, req)
}

// UndrainNode implements the RPC.
func (h *clusterHandler) UndrainNode(ctx context.Context, req *streamhousev1.UndrainNodeRequest) (*streamhousev1.UndrainNodeResponse, error) {
	return h.broker.UndrainNode(ctx, req)
}

// DecommissionNode implements the RPC.
func (h *clusterHandler) DecommissionNode(ctx context.Context, req *streamhousev1.DecommissionNodeRequest) (*streamhousev1.DecommissionNodeResponse, error) {
	return h.broker.DecommissionNode(ctx, req)
}

// TransferLeader implements the RPC.
func (h *clusterHandler) TransferLeader(ctx context.Context, req *streamhousev1.TransferLeaderRequest) (*streamhousev1.TransferLeaderResponse, error) {
	return h.broker.TransferLeader(ctx, req)
}
