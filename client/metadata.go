package client

import (
	"context"
	"errors"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// topicMeta is what was known of a topic at one time. It never changes.
type topicMeta struct {
	name   string
	shards []uint32 // by partition
	ids    []uint64 // by partition, unique in the cluster: a topic created anew has others
	// maxRecordBytes bounds key, value and headers of a record, maxRequestBytes what is written at once; 0 where a node
	// did not say.
	maxRecordBytes, maxRequestBytes int
	fetched                         time.Time
}

// refreshing is a question for a topic that is under way.
type refreshing struct {
	done  chan struct{} // closed once the others are set
	topic *topicMeta
	err   error
}

// topic returns what is known of a topic: at most MetadataMaxAge old, or else while it is asked for anew in the
// background.
func (c *Client) topic(ctx context.Context, name string) (*topicMeta, error) {
	c.mu.Lock()
	t, closed := c.topics[name], c.closed
	c.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if t == nil {
		return c.refresh(ctx, name)
	}
	if time.Since(t.fetched) > c.cfg.MetadataMaxAge {
		c.ask(name)
	}
	return t, nil
}

// refresh asks for a topic and waits for the answer. Those who ask at the same time share it; but a no to a question that
// was under way before may be older than the topic, and is asked again.
func (c *Client) refresh(ctx context.Context, name string) (*topicMeta, error) {
	r, joined := c.ask(name)
	t, err := r.wait(ctx)
	if joined && errors.Is(err, ErrTopicNotFound) {
		r, _ = c.ask(name)
		return r.wait(ctx)
	}
	return t, err
}

func (r *refreshing) wait(ctx context.Context) (*topicMeta, error) {
	select {
	case <-r.done:
		return r.topic, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask asks for a topic in the background, unless somebody does so already: then joined is true.
func (c *Client) ask(name string) (r *refreshing, joined bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.asking[name]; r != nil {
		return r, true
	}
	r = &refreshing{done: make(chan struct{})}
	if r.err = c.backgroundLocked(func() { c.answer(name, r) }); r.err != nil {
		close(r.done)
		return r, false
	}
	c.asking[name] = r
	return r, false
}

func (c *Client) answer(name string, r *refreshing) {
	defer close(r.done)
	res, err := call(c.ctx, c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.GetTopicResponse, error) {
		return n.api().GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: name})
	})
	c.metrics.refreshes.Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asking, name)
	if errors.Is(err, ErrTopicNotFound) {
		delete(c.topics, name)
	}
	if r.err = err; err == nil {
		r.topic = c.learnLocked(res)
	}
}

// learnLocked notes a topic, its shards' leaders, and where nodes are.
func (c *Client) learnLocked(res *streamhousev1.GetTopicResponse) *topicMeta {
	parts := res.GetTopic().GetPartitions()
	t := &topicMeta{name: res.GetTopic().GetName(), shards: make([]uint32, len(parts)), ids: make([]uint64, len(parts)), fetched: time.Now()}
	t.maxRecordBytes, t.maxRequestBytes = int(res.GetMaxRecordBytes()), int(res.GetMaxRequestBytes())
	for _, n := range res.GetNodes() {
		c.addrs[n.GetNodeId()] = n.GetGrpcAddr()
	}
	for i, p := range parts {
		t.shards[i], t.ids[i] = p.GetShard(), p.GetId()
		c.leaders[p.GetShard()] = p.GetLeader()
	}
	// A node that is behind may tell of a topic that had the name before. Ids only grow.
	if known := c.topics[t.name]; known == nil || len(t.ids) == 0 || len(known.ids) == 0 || t.ids[0] >= known.ids[0] {
		c.topics[t.name] = t
	}
	return c.topics[t.name]
}

// leader returns a connection to the leader of a shard as far as it is known, and else to some node, which forwards.
// It avoids a node that has just failed where there is another.
func (c *Client) leader(shard uint32, avoid *conn) (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if addr := c.addrs[c.leaders[shard]]; addr != "" {
		if n, err := c.connLocked(addr); err == nil && n != avoid {
			return n, nil
		}
	}
	if n := c.order[c.current]; n != avoid || len(c.order) == 1 {
		return n, nil
	}
	return c.order[(c.current+1)%len(c.order)], nil
}

// knownLeader returns a connection to the leader of a shard, nil where it is not known.
func (c *Client) knownLeader(shard uint32) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	addr := c.addrs[c.leaders[shard]]
	if addr == "" {
		return nil
	}
	n, err := c.connLocked(addr)
	if err != nil {
		return nil
	}
	return n
}
