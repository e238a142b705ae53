package producer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

const unavailable = codes.Unavailable

// acknowledge takes the result of one batch. It returns an error when the
// batch is not stored.
func (p *Producer) acknowledge(resp *streamhousev1.ProduceStreamResponse) error {
	b := p.find(resp.GetId())
	if b == nil {
		return &remote.Error{Code: unavailable, Message: fmt.Sprintf("the node answered a request %d that it was not sent", resp.GetId())}
	}
	ack := Ack{Partition: b.Partition, BaseOffset: -1, Records: len(b.Records), Bytes: b.Bytes}
	switch e := resp.GetError(); {
	case e.GetReason() == streamhousev1.ErrorReason_ERROR_REASON_DUPLICATE_SEQUENCE:
		// An earlier try has stored it.
	case e != nil:
		return fmt.Errorf("%s: %w", b.Name, remote.FromProto(e))
	case len(resp.GetBatches()) == 1:
		ack.BaseOffset = resp.GetBatches()[0].GetBaseOffset()
	}
	p.remove(b)
	if p.cfg.OnAck != nil {
		p.cfg.OnAck(ack)
	}
	notify(p.room)
	return nil
}

func (p *Producer) find(id uint64) *pendingBatch {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.pending[:p.sent] {
		if b.id == id {
			return b
		}
	}
	return nil
}

func (p *Producer) remove(b *pendingBatch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.pending, b)
	p.pending = slices.Delete(p.pending, i, i+1)
	p.sent--
	p.pendingBytes -= b.Bytes
	if p.perPartition[b.Partition]--; p.perPartition[b.Partition] == 0 {
		delete(p.perPartition, b.Partition)
	}
	p.lastProgress = time.Now()
}

// watch cancels an attempt when its node owes answers and gives none. The
// function that it returns ends the watch and waits for it.
func (p *Producer) watch(cancel context.CancelCauseFunc, addr string) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(stallTimeout / 10)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				if p.stalled() {
					cancel(&remote.Error{Code: unavailable, Message: fmt.Sprintf("%s did not answer for %s", addr, stallTimeout)})
					return
				}
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

func (p *Producer) stalled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent > 0 && time.Since(p.lastProgress) > stallTimeout
}
