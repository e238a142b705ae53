package broker

import (
	"context"
	"math"
	"sync"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// producerBlock is how many producer ids a node takes from the metadata at once.
const producerBlock = 1000

// producerIDs hands out ids from the block that this node has taken. What is left of it when the node ends is lost.
type producerIDs struct {
	// take holds a token while a block is fetched, so that waiting for it can be given up.
	take chan struct{}

	mu   sync.Mutex
	next int64 // guarded by mu
	end  int64 // guarded by mu; first id behind the block
}

func (p *producerIDs) pop() (int64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == 0 {
		p.next++ // 0 asks for a new id, so it is none
	}
	if p.next >= p.end {
		return 0, false
	}
	p.next++
	return p.next - 1, true
}

func (p *producerIDs) set(first, count int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next, p.end = first, first+count
}

// InitProducer gives out a producer id that nobody has had, or the next epoch of a known one.
func (b *Broker) InitProducer(ctx context.Context, req *streamhousev1.InitProducerRequest) (*streamhousev1.InitProducerResponse, error) {
	id, epoch := req.GetProducerId(), req.GetProducerEpoch()
	switch {
	case id < 0:
		return nil, InvalidField("producer_id", "%d is below 0", id)
	case epoch < 0 || epoch > math.MaxInt16:
		return nil, InvalidField("producer_epoch", "%d is not from 0 to %d", epoch, math.MaxInt16)
	case id > 0:
		if err := b.givenOut(ctx, id); err != nil {
			return nil, err
		}
		// One of before a recovery may have written what nobody remembers; under its id a retry would be stored twice.
		if epoch < math.MaxInt16 && id >= b.meta.View().FirstProducerID() {
			return &streamhousev1.InitProducerResponse{ProducerId: id, ProducerEpoch: epoch + 1}, nil
		}
	}
	id, err := b.newProducerID(ctx)
	if err != nil {
		return nil, err
	}
	return &streamhousev1.InitProducerResponse{ProducerId: id}, nil
}

// givenOut returns an error when nobody can have got the id, after a barrier.
func (b *Broker) givenOut(ctx context.Context, id int64) error {
	if id < b.meta.View().NextProducerID() {
		return nil
	}
	if err := b.meta.Barrier(ctx); err != nil {
		return err
	}
	if id < b.meta.View().NextProducerID() {
		return nil
	}
	return InvalidField("producer_id", "%d was never given out", id)
}

func (b *Broker) newProducerID(ctx context.Context) (int64, error) {
	p := &b.ids
	for {
		if id, ok := p.pop(); ok {
			return id, nil
		}
		select {
		case p.take <- struct{}{}:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		id, ok := p.pop() // somebody else may have fetched meanwhile
		var err error
		if !ok {
			err = b.fetchProducerIDs(ctx)
		}
		<-p.take
		if ok || err != nil {
			return id, err
		}
	}
}

func (b *Broker) fetchProducerIDs(ctx context.Context) error {
	res, err := b.meta.Propose(ctx, &metav1.Command{Command: &metav1.Command_AllocateProducerIds{
		AllocateProducerIds: &metav1.AllocateProducerIDs{Count: producerBlock},
	}})
	if err != nil {
		return err
	}
	b.ids.set(res.GetFirstProducerId(), producerBlock)
	return nil
}
