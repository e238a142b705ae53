package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// service is a part of the node that runs in a goroutine of its own.
type service struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

// serve runs a part until its service is stopped. A part that ends by itself
// with an error ends the node. The part does not see the end of ctx: the node
// stops its parts one after the other.
func serve(ctx context.Context, name string, fatal func(error), run func(context.Context) error) *service {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &service{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = run(ctx)
		if s.err != nil && ctx.Err() == nil {
			fatal(fmt.Errorf("%s: %w", name, s.err))
			s.err = nil // It is reported.
		}
	}()
	return s
}

// stop ends the part and waits for it.
func (s *service) stop() error {
	s.cancel()
	<-s.done
	if errors.Is(s.err, context.Canceled) {
		return nil
	}
	return s.err
}

// stack holds what was started, in order, with what stops it.
type stack struct {
	log   *slog.Logger
	steps []stopStep
}

type stopStep struct {
	name string
	stop func() error
}

func (s *stack) push(name string, stop func() error) {
	s.steps = append(s.steps, stopStep{name, stop})
}

// unwind stops everything in reverse order, whatever fails on the way.
func (s *stack) unwind() error {
	var errs []error
	for _, step := range slices.Backward(s.steps) {
		begin := time.Now()
		if err := step.stop(); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", step.name, err))
		}
		s.log.Debug("stopped", "part", step.name, "took", time.Since(begin))
	}
	s.steps = nil
	return errors.Join(errs...)
}
