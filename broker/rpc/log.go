package rpc

import (
	"context"
	"net"

	"google.golang.org/grpc/peer"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// logHandler handles StreamHouseService.
type logHandler struct {
	streamhousev1.UnimplementedStreamHouseServiceServer

	broker *broker.Broker
	guard  *guard
}

var _ streamhousev1.StreamHouseServiceServer = (*logHandler)(nil)

// CreateTopic implements the RPC.
func (h *logHandler) CreateTopic(ctx context.Context, req *streamhousev1.CreateTopicRequest) (*streamhousev1.CreateTopicResponse, error) {
	return h.broker.CreateTopic(ctx, req)
}

// GetTopic implements the RPC.
func (h *logHandler) GetTopic(ctx context.Context, req *streamhousev1.GetTopicRequest) (*streamhousev1.GetTopicResponse, error) {
	return h.broker.GetTopic(ctx, req)
}

// ListTopics implements the RPC.
func (h *logHandler) ListTopics(ctx context.Context, req *streamhousev1.ListTopicsRequest) (*streamhousev1.ListTopicsResponse, error) {
	return h.broker.ListTopics(ctx, req)
}

// AlterTopic implements the RPC.
func (h *logHandler) AlterTopic(ctx context.Context, req *streamhousev1.AlterTopicRequest) (*streamhousev1.AlterTopicResponse, error) {
	return h.broker.AlterTopic(ctx, req)
}

// DeleteTopic implements the RPC.
func (h *logHandler) DeleteTopic(ctx context.Context, req *streamhousev1.DeleteTopicRequest) (*streamhousev1.DeleteTopicResponse, error) {
	return h.broker.DeleteTopic(ctx, req)
}

// ListOffsets implements the RPC.
func (h *logHandler) ListOffsets(ctx context.Context, req *streamhousev1.ListOffsetsRequest) (*streamhousev1.ListOffsetsResponse, error) {
	return h.broker.ListOffsets(ctx, req)
}

// CommitOffset implements the RPC.
func (h *logHandler) CommitOffset(ctx context.Context, req *streamhousev1.CommitOffsetRequest) (*streamhousev1.CommitOffsetResponse, error) {
	return h.broker.CommitOffset(ctx, req)
}

// GetOffset implements the RPC.
func (h *logHandler) GetOffset(ctx context.Context, req *streamhousev1.GetOffsetRequest) (*streamhousev1.GetOffsetResponse, error) {
	return h.broker.GetOffset(ctx, req)
}

// GroupHeartbeat implements the RPC.
func (h *logHandler) GroupHeartbeat(ctx context.Context, req *streamhousev1.GroupHeartbeatRequest) (*streamhousev1.GroupHeartbeatResponse, error) {
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
func (h *logHandler) LeaveGroup(ctx context.Context, req *streamhousev1.LeaveGroupRequest) (*streamhousev1.LeaveGroupResponse, error) {
	return h.broker.LeaveGroup(ctx, req)
}

// ListGroups implements the RPC.
func (h *logHandler) ListGroups(ctx context.Context, req *streamhousev1.ListGroupsRequest) (*streamhousev1.ListGroupsResponse, error) {
	return h.broker.ListGroups(ctx, req)
}

// DescribeGroup implements the RPC.
func (h *logHandler) DescribeGroup(ctx context.Context, req *streamhousev1.DescribeGroupRequest) (*streamhousev1.DescribeGroupResponse, error) {
	return h.broker.DescribeGroup(ctx, req)
}

// DeleteGroup implements the RPC.
func (h *logHandler) DeleteGroup(ctx context.Context, req *streamhousev1.DeleteGroupRequest) (*streamhousev1.DeleteGroupResponse, error) {
	return h.broker.DeleteGroup(ctx, req)
}
