package client

import (
	"fmt"
	"time"

	"github.com/streamhouse/streamhouse/internal/pause"
)

// discoverMissing is how often a topic that is not there is looked for.
const discoverMissing = time.Second

// discover adds the partitions of the topics of a consumer without a group, and those that are added to them later, until
// the consumer ends. A topic that is missing, or whose name can't be one, is told of once.
func (r *Consumer) discover() {
	told := make(map[string]Reason)
	for r.ctx.Err() == nil {
		wait := r.c.cfg.MetadataMaxAge
		for _, name := range r.cfg.Topics {
			t, err := r.c.refresh(r.ctx, name)
			if err != nil {
				wait = min(wait, discoverMissing)
				if reason := reasonOf(err); final(err) && told[name] != reason {
					told[name] = reason
					r.tell(fmt.Errorf("read topic %s: %w", name, err))
				}
				continue
			}
			delete(told, name)
			r.found(t)
		}
		_ = pause.For(r.ctx, wait) // the loop looks at ctx
	}
}

// found reads the partitions of a topic that are new.
func (r *Consumer) found(t *topicMeta) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range t.shards {
		tp := TopicPartition{t.name, int32(i)}
		if r.partitions[tp] == nil && !r.closed {
			r.startLocked(r.addLocked(tp))
		}
	}
}

// tell makes Poll return an error.
func (r *Consumer) tell(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raiseLocked(err)
}

// raiseLocked makes Poll return an error.
func (r *Consumer) raiseLocked(err error) {
	r.errs = append(r.errs, err)
	r.notify()
}
