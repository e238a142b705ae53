package transport

import (
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline is the library's pipeline, with requests that are bounded as those of AppendEntries, and without its deadlock: the
// library stops taking answers once a follower refuses an entry, and may send some more requests. When nobody takes the
// answers to these, the library's next request waits for ever. The leader goes on with its heartbeats then, so that it stays
// the leader; but that follower gets no entry of it any more, and the leader's replica can't be closed
// (https://github.com/hashicorp/raft/issues/612). So answers are taken here, whether or not Raft wants them.
type pipeline struct {
	raft.AppendPipeline

	answers chan raft.AppendFuture
	closed  chan struct{}
	close   func()
	done    sync.WaitGroup
}

func newPipeline(p raft.AppendPipeline) *pipeline {
	c := make(chan struct{})
	w := &pipeline{AppendPipeline: p, answers: make(chan raft.AppendFuture), closed: c, close: sync.OnceFunc(func() { close(c) })}
	w.done.Go(w.take)
	return w
}

// take hands on answers in their order, and keeps those that Raft does not take yet. That are few: it takes them at once, or, once
// it takes none any more, sends a few requests before it closes the pipeline.
func (p *pipeline) take() {
	var kept []raft.AppendFuture
	for {
		var next raft.AppendFuture
		var answers chan<- raft.AppendFuture
		if len(kept) > 0 {
			next, answers = kept[0], p.answers
		}
		select {
		case f := <-p.AppendPipeline.Consumer():
			kept = append(kept, f)
		case answers <- next:
			kept = kept[1:]
		case <-p.closed:
			return
		}
	}
}

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	bound(args)
	return p.AppendPipeline.AppendEntries(args, resp)
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.close()
	p.done.Wait()
	return p.AppendPipeline.Close()
}
