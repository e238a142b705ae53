package rpc

import (
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// ProduceStream implements the RPC.
func (h *serviceHandler) ProduceStream(s streamhousev1.StreamHouseService_ProduceStreamServer) error {
	return h.broker.ProduceStream(s.Context(), &produceStream{stream: s, guard: h.guard, broker: h.broker})
}

// produceStream is a client's stream as the broker wants it. Every request is admitted on its own.
type produceStream struct {
	stream streamhousev1.StreamHouseService_ProduceStreamServer
	guard  *guard
	broker *broker.Broker
}

var _ broker.ProduceStream = (*produceStream)(nil)

// Recv implements broker.ProduceStream.
func (s *produceStream) Recv() (req *streamhousev1.ProduceStreamRequest, release func(), refused, err error) {
	req, err = s.stream.Recv()
	if err != nil {
		return nil, nil, nil, err
	}
	admitted, refused := s.guard.admit(req)
	return req, func() {
		s.guard.codec.release(req)
		if refused == nil {
			admitted()
		}
	}, refused, nil
}

// Send implements broker.ProduceStream.
func (s *produceStream) Send(r broker.StreamResult) error {
	res := &streamhousev1.ProduceStreamResponse{Id: r.ID, Batches: r.Batches}
	if r.Err != nil {
		s.broker.CountProduceError(r.Topic, r.Err)
		res.Error = streamError(r.Err)
	}
	return s.stream.Send(res)
}
