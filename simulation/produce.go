package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/history"
)

const (
	topic      = "log"
	partitions = 3
	mostBytes  = 2000
)

func part(p int32) history.Partition { return history.Partition{Topic: topic, Number: p} }

// value is a value that no other record has.
func value(producer string, number int, r *rand.Rand) string {
	head := fmt.Sprintf("%s/%d/", producer, number)
	return head + strings.Repeat(string(rune('a'+number%26)), 20+r.IntN(mostBytes)) + "."
}

// produce writes under a producer id, several records at a time, until stop is closed; then it waits for all of them.
func (s *sim) produce(ctx context.Context, name string, host int, delivery time.Duration) error {
	c, err := s.c.Client(host, nil)
	if err != nil {
		return err
	}
	p, err := client.NewProducer(c, client.ProducerConfig{Partitioner: client.Manual, DeliveryTimeout: delivery, Linger: 2 * time.Millisecond})
	if err != nil {
		return errors.Join(err, c.Close())
	}
	r := s.rand(uint64(host))
	for number := 0; !s.stopping(); number++ {
		partition := r.Int32N(partitions)
		v := value(name, number, r)
		op := s.h.Produce(name, part(partition), v)
		err := p.Produce(ctx, &client.Record{Topic: topic, Partition: partition, Value: []byte(v)}, func(rec *client.Record, err error) {
			s.settle(op, name, v, rec.Offset, err)
		})
		if err != nil {
			op.Fail(err)
		}
		if pause.For(ctx, time.Duration(10+r.IntN(100))*time.Millisecond) != nil {
			break
		}
	}
	if err := p.Close(ctx); err != nil {
		s.trace.Event(name, "close: %v", err) // each record has its own outcome in the history
	}
	return c.Close()
}

func (s *sim) settle(op *history.Produce, name, v string, offset int64, err error) {
	switch {
	case err == nil && offset < 0:
		op.Stored()
	case err == nil:
		op.OK(offset)
	case errors.Is(err, client.ErrOutcomeUnknown):
		s.trace.Event(name, "unknown: %.30s: %v", v, err)
		op.Unknown(err)
	default:
		s.trace.Event(name, "failed: %.30s: %v", v, err)
		op.Fail(err)
	}
}

// notWritten are the reasons that promise that nothing was written.
var notWritten = map[string]bool{"NO_LEADER": true, "LOG_FULL": true, "DISK_FULL": true, "TOO_MANY_INFLIGHT_BYTES": true}

// produceBare writes batches through one node without a producer id, each once: whatever becomes of the call, the node
// must not store one twice.
func (s *sim) produceBare(ctx context.Context, a *api, host int) {
	r := s.rand(uint64(host))
	for number := 0; !s.stopping(); number++ {
		partition := r.Int32N(partitions)
		// A call that was given up may be done after a later one: each has a name of its own, so that no order is asked for.
		name := fmt.Sprintf("bare-%s-%d", a.node, number)
		var values []string
		for i := range 1 + r.IntN(4) {
			values = append(values, value(name, i, r))
		}
		_ = s.produceOnce(ctx, a, name, partition, values, callTimeout) // it is in the history
		if pause.For(ctx, time.Duration(50+r.IntN(300))*time.Millisecond) != nil {
			break
		}
	}
}

// produceOnce writes a batch through one node without a producer id, with one call.
func (s *sim) produceOnce(ctx context.Context, a *api, name string, partition int32, values []string, timeout time.Duration) error {
	req := &streamhousev1.ProduceBatchRequest{Topic: topic, Partition: &partition}
	for _, v := range values {
		req.Records = append(req.Records, &streamhousev1.Record{Value: []byte(v)})
	}
	op := s.h.Produce(name, part(partition), values...)
	call, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := a.ProduceBatch(call, req)
	switch {
	case err == nil:
		op.OK(resp.GetBatches()[0].GetBaseOffset())
	case notWritten[reason(err)]:
		s.trace.Event(name, "failed: %v", err)
		op.Fail(err)
	default:
		s.trace.Event(name, "unknown: %v", err)
		op.Unknown(err)
	}
	return err
}
