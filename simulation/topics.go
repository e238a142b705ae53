package simulation

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
)

// topicNames is how many names topics come and go under.
const topicNames = 3

// changeTopics creates, deletes and looks at topics through one node.
func (s *sim) changeTopics(ctx context.Context, a *api, host int) {
	r := s.rand(uint64(host))
	for !s.stopping() {
		name := fmt.Sprintf("x%d", r.IntN(topicNames))
		call, cancel := context.WithTimeout(ctx, callTimeout)
		switch r.IntN(4) {
		case 0:
			s.create(call, a, name)
		case 1:
			s.remove(call, a, name)
		default:
			s.get(call, a, name)
		}
		cancel()
		if pause.For(ctx, time.Duration(50+r.IntN(700))*time.Millisecond) != nil {
			break
		}
	}
}

func id(uuid []byte) string { return fmt.Sprintf("%x", uuid) }

func (s *sim) create(ctx context.Context, a *api, name string) {
	op := s.h.CreateTopic(a.node, name)
	resp, err := a.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: name, Partitions: 1})
	switch status.Code(err) {
	case codes.OK:
		op.OK(id(resp.GetTopic().GetUuid()))
	case codes.AlreadyExists:
		op.Exists()
	default:
		op.Unknown(err)
	}
}

func (s *sim) remove(ctx context.Context, a *api, name string) {
	op := s.h.DeleteTopic(a.node, name)
	_, err := a.DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: name})
	switch status.Code(err) {
	case codes.OK:
		op.OK("")
	case codes.NotFound:
		op.NotFound()
	default:
		op.Unknown(err)
	}
}

func (s *sim) get(ctx context.Context, a *api, name string) {
	op := s.h.GetTopic(a.node, name)
	resp, err := a.GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: name})
	switch status.Code(err) {
	case codes.OK:
		op.OK(id(resp.GetTopic().GetUuid()))
	case codes.NotFound:
		op.NotFound()
	default:
		op.Fail(err)
	}
}
