package client

import (
	"context"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// askTimeout bounds one question for a producer id. It is asked again until the records' time is over.
const askTimeout = 5 * time.Second

// askLocked asks in the background for a producer id, or a new epoch, for a queue of which nothing is in flight. Other
// queues of the shard go on. The sender looks again when the answer is there.
func (s *sender) askLocked(q *queue) {
	q.asking = true
	req := &streamhousev1.InitProducerRequest{}
	if q.producerID >= 0 {
		req.ProducerId, req.ProducerEpoch = q.producerID, q.epoch
	}
	s.p.wg.Go(func() { s.identify(q, req) })
}

func (s *sender) identify(q *queue, req *streamhousev1.InitProducerRequest) {
	ctx, cancel := context.WithTimeout(s.p.ctx, askTimeout)
	defer cancel()
	res, err := call(ctx, s.p.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.InitProducerResponse, error) {
		return n.api().InitProducer(ctx, req)
	})
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	defer s.notify()
	q.asking, q.askErr = false, err
	if err != nil {
		q.asked++
		q.notBefore = time.Now().Add(backoffAfter(q.asked))
		return
	}
	q.asked = 0
	q.startEpoch(res.GetProducerId(), res.GetProducerEpoch())
	if s.p.id < 0 {
		s.p.id = res.GetProducerId()
	}
}
