package rpc

import (
	"context"
	"net"

	"google.golang.org/grpc/peer"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// serviceHandler handles StreamHouseService.
type serviceHandler struct {
	streamhousev1.UnimplementedStreamHouseServiceServer

	broker *broker.Broker
	guard  *guard
}

var _ streamhousev1.StreamHouseServiceServer = (*serviceHandler)(nil)

// CreateTopic implements the RPC.
func (h *serviceHandler) CreateTopic(ctx context.Context, req *streamhousev1.CreateTopicRequest) (*streamhousev1.CreateTopicResponse, error) {
	return h.broker.CreateTopic(ctx, req)
}

// GetTopic implements the RPC.
func (h *serviceHandler) GetTopic(ctx context.Context, req *streamhousev1.GetTopicRequest) (*streamhousev1.GetTopicResponse, error) {
	return h.broker.GetTopic(ctx, req)
}

// ListTopics implements the RPC.
func (h *serviceHandler) ListTopics(ctx context.Context, req *streamhousev1.ListTopicsRequest) (*streamhousev1.ListTopicsResponse, error) {
	return h.broker.ListTopics(ctx, req)
}

// AlterTopic implements the RPC.
func (h *serviceHandler) AlterTopic(ctx context.Context, req *streamhousev1.AlterTopicRequest) (*streamhousev1.AlterTopicResponse, error) {
	return h.broker.AlterTopic(ctx, req)
}

// DeleteTopic implements the RPC.
func (h *serviceHandler) DeleteTopic(ctx context.Context, req *streamhousev1.DeleteTopicRequest) (*streamhousev1.DeleteTopicResponse, error) {
	return h.broker.DeleteTopic(ctx, req)
}

// ListOffsets implements the RPC.
func (h *serviceHandler) ListOffsets(ctx context.Context, req *streamhousev1.ListOffsetsRequest) (*streamhousev1.ListOffsetsResponse, error) {
	return h.broker.ListOffsets(ctx, req)
}

// CommitOffset implements the RPC.
func (h *serviceHandler) CommitOffset(ctx context.Context, req *streamhousev1.CommitOffsetRequest) (*streamhousev1.CommitOffsetResponse, error) {
	return h.broker.CommitOffset(ctx, req)
}

// GetOffset implements the RPC.
func (h *serviceHandler) GetOffset(ctx context.Context, req *streamhousev1.GetOffsetRequest) (*streamhousev1.GetOffsetResponse, error) {
	return h.broker.GetOffset(ctx, req)
}

// GroupHeartbeat implements the RPC.
func (h *serviceHandler) GroupHeartbeat(ctx context.Context, req *streamhousev1.GroupHeartbeatRequest) (*streamhousev1.GroupHeartbeatResponse, error) {
	return h.broker.GroupHeartbeat(ctx, req, clientHost(ctx))
}

// clientHost is the address that a call comes from, without the port.
func clientHost(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// LeaveGroup implements the RPC.
func (h *serviceHandler) LeaveGroup(ctx context.Context, req *streamhousev1.LeaveGroupRequest) (*streamhousev1.LeaveGroupResponse, error) {
	return h.broker.LeaveGroup(ctx, req)
}

// ListGroups implements the RPC.
func (h *serviceHandler) ListGroups(ctx context.Context, req *streamhousev1.ListGroupsRequest) (*streamhousev1.ListGroupsResponse, error) {
	return h.broker.ListGroups(ctx, req)
}

// DescribeGroup implements the RPC.
func (h *serviceHandler) DescribeGroup(ctx context.Context, req *streamhousev1.DescribeGroupRequest) (*streamhousev1.DescribeGroupResponse, error) {
	return h.broker.DescribeGroup(ctx, req)
}

// DeleteGroup implements the RPC.
func (h *serviceHandler) DeleteGroup(ctx context.Context, req *streamhousev1.DeleteGroupRequest) (*streamhousev1.DeleteGroupResponse, error) {
	return h.broker.DeleteGroup(ctx, req)
}
