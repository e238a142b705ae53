package integration_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
	"github.com/streamhouse/streamhouse/simulation/history"
)

type consumedRecord = streamhousev1.ConsumedRecord

const (
	// lookEvery is the time between two questions of those who only look.
	lookEvery = 250 * time.Millisecond
	// askEndEvery is how many rounds of reads come for one of questions for the ends.
	askEndEvery = 3
)

// background starts those who only look, and those who make topics come and go, until the returned function is called.
func (l *load) background() (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	var wg sync.WaitGroup
	for _, n := range l.c.Nodes {
		wg.Go(func() { l.read(ctx, n) })
		wg.Go(func() { l.askCommitted(ctx, n) })
	}
	if l.cfg.topics {
		wg.Go(func() { l.changeTopics(ctx) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// each calls f every so often until ctx ends.
func each(ctx context.Context, d time.Duration, f func(i int)) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			f(i)
		case <-ctx.Done():
			return
		}
	}
}

// read reads all partitions through a node as they grow.
func (l *load) read(ctx context.Context, n *harness.Node) {
	next := make([]int64, l.cfg.partitions)
	marks := &toldMarks{t: l.t, h: l.h, node: n, marks: make(map[int32]int64)}
	each(ctx, lookEvery/time.Duration(l.cfg.partitions), func(i int) {
		p := int32(i) % l.cfg.partitions
		if int32(i)/l.cfg.partitions%askEndEvery == 0 {
			l.askEnd(ctx, n, p, marks)
		}
		op := l.h.Read(n.ID, history.Partition{Topic: loadTopic, Number: p}, next[p])
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		resp, err := n.Consume(ctx, &streamhousev1.ConsumeRequest{
			Topic: loadTopic, Partition: p, Offset: next[p], MaxBytes: 1 << 20, MaxWait: durationpb.New(0),
		})
		if err != nil {
			op.Fail(err)
			return
		}
		records := make([]history.Record, 0, len(resp.GetRecords()))
		for _, r := range resp.GetRecords() {
			records = append(records, history.Record{Offset: r.GetOffset(), Value: string(r.GetValue())})
		}
		mark := resp.GetHighWatermark()
		marks.told(p, mark)
		if len(records) > 0 {
			if last := records[len(records)-1].Offset; last >= mark {
				l.t.Errorf("UNCOMMITTED: partition %d: %s served offset %d with a high watermark of %d", p, n.ID, last, mark)
			}
			mark = -1 // it is what this node knows, and not what the leader says
		}
		op.OK(mark, records)
		next[p] = resp.GetNextOffset()
	})
}

// askEnd asks a node for the end of a partition as the leader has it.
func (l *load) askEnd(ctx context.Context, n *harness.Node, p int32, marks *toldMarks) {
	marks.look()
	pid := marks.pid
	op := l.h.HighWatermark(n.ID, history.Partition{Topic: loadTopic, Number: p})
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	resp, err := n.ListOffsets(ctx, &streamhousev1.ListOffsetsRequest{
		Topic: loadTopic, Partitions: []int32{p}, Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true},
	})
	if err == nil && n.Process().PID() != pid {
		err = errors.New("the node was started anew meanwhile")
	}
	if err != nil {
		op.Fail(err)
		return
	}
	mark := resp.GetOffsets()[0].GetOffset()
	marks.told(p, mark)
	op.OK(mark)
}

// toldMarks are the high watermarks that a node told. They never go back while it runs.
type toldMarks struct {
	t     *testing.T
	h     *history.History
	node  *harness.Node
	pid   int
	marks map[int32]int64
}

// look forgets the marks where the node was started anew.
func (m *toldMarks) look() {
	if pid := m.node.Process().PID(); pid != m.pid {
		m.pid = pid
		clear(m.marks)
		m.h.Restarted(m.node.ID)
	}
}

func (m *toldMarks) told(partition int32, mark int64) {
	m.look()
	if before := m.marks[partition]; mark < before {
		m.t.Errorf("WATERMARK BACK: partition %d: %s said %d, and then %d", partition, m.node.ID, before, mark)
	}
	m.marks[partition] = mark
}

// askCommitted asks a node what the group has committed.
func (l *load) askCommitted(ctx context.Context, n *harness.Node) {
	each(ctx, lookEvery, func(i int) {
		p := int32(i) % l.cfg.partitions
		op := l.h.Committed(groupName, n.ID, history.Partition{Topic: loadTopic, Number: p})
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		resp, err := n.GetOffset(ctx, &streamhousev1.GetOffsetRequest{Group: groupName, Topic: loadTopic, Partitions: []int32{p}})
		switch {
		case err != nil:
			op.Fail(err)
		case len(resp.GetOffsets()) == 0:
			op.OK(-1)
		default:
			op.OK(resp.GetOffsets()[0].GetOffset())
		}
	})
}

// changeTopics creates, deletes and asks for topics, through one node after the other. A name is used until an outcome is
// not known, so that the search for an order stays short.
func (l *load) changeTopics(ctx context.Context) {
	name, generation := "topic-0", 0
	each(ctx, lookEvery, func(i int) {
		n := l.c.Nodes[i%len(l.c.Nodes)]
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if !l.changeTopic(ctx, n, name, i%3) {
			generation++
			name = fmt.Sprintf("topic-%d", generation)
		}
	})
}

// changeTopic does one of three things to a topic, and returns false where it is not known whether it was done.
func (l *load) changeTopic(ctx context.Context, n *harness.Node, name string, what int) (known bool) {
	switch what {
	case 0:
		op := l.h.CreateTopic(n.ID, name)
		resp, err := n.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: name, Partitions: 1})
		switch {
		case err == nil:
			op.OK(hex.EncodeToString(resp.GetTopic().GetUuid()))
		case harness.Reason(err) == "TOPIC_EXISTS":
			op.Exists()
		default:
			op.Unknown(err)
			return false
		}
	case 1:
		// That a topic is there may be said by a node that has not heard of its deletion yet: only the contrary counts.
		op := l.h.GetTopic(n.ID, name)
		_, err := n.GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: name})
		if harness.Reason(err) == "TOPIC_NOT_FOUND" {
			op.NotFound()
		} else {
			op.Fail(err)
		}
	default:
		op := l.h.DeleteTopic(n.ID, name)
		_, err := n.DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: name})
		switch {
		case err == nil:
			op.OK("")
		case harness.Reason(err) == "TOPIC_NOT_FOUND":
			op.NotFound()
		default:
			op.Unknown(err)
			return false
		}
	}
	return true
}

// loadGroup is a consumer group whose members commit all that they have processed.
type loadGroup struct {
	t     *testing.T
	l     *load
	admin *client.Admin
	stop  func()

	mu        sync.Mutex
	times     map[int32]map[int64]int // guarded by mu; how often each offset was processed
	refusals  int                     // guarded by mu; commits that were refused
	handovers int                     // guarded by mu
}

// loadMembers is how many consumers share the partitions.
const loadMembers = 2

func startLoadGroup(t *testing.T, l *load) *loadGroup {
	t.Helper()
	g := &loadGroup{t: t, l: l, admin: client.NewAdmin(l.c.Client(client.Config{})), times: make(map[int32]map[int64]int)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range loadMembers {
		member := fmt.Sprintf("member-%d", i)
		r, err := client.NewConsumer(l.c.Client(client.Config{}), client.ConsumerConfig{
			Group: groupName, Topics: []string{loadTopic}, SessionTimeout: 6 * time.Second, ManualCommit: true,
			OnAssigned: g.noteOwner(member, l.h.Grant), OnRevoked: g.noteOwner(member, l.h.Release), OnLost: g.noteOwner(member, l.h.Release),
		})
		require.NoError(t, err)
		wg.Go(func() {
			g.consume(ctx, r, member)
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			if err := r.Close(closing); err != nil {
				t.Errorf("close %s: %v", member, err)
			}
		})
	}
	g.stop = func() {
		cancel()
		wg.Wait()
	}
	return g
}

// noteOwner tells the history of what a member owns.
func (g *loadGroup) noteOwner(member string, note func(group, member string, p history.Partition)) func(context.Context, []client.TopicPartition) {
	return func(_ context.Context, tps []client.TopicPartition) {
		g.mu.Lock()
		g.handovers += len(tps)
		g.mu.Unlock()
		for _, tp := range tps {
			note(groupName, member, history.Partition{Topic: tp.Topic, Number: tp.Partition})
		}
	}
}

// consume processes and commits until ctx ends.
func (g *loadGroup) consume(ctx context.Context, r *client.Consumer, member string) {
	for ctx.Err() == nil {
		records, err := r.Poll(ctx)
		if err != nil || len(records) == 0 {
			continue // the consumer itself tries again
		}
		ends := g.process(records, member)
		ops := make([]*history.Commit, 0, len(ends))
		for p, end := range ends {
			ops = append(ops, g.l.h.Commit(groupName, member, history.Partition{Topic: loadTopic, Number: p}, end))
		}
		err = r.CommitRecords(context.WithoutCancel(ctx), records...)
		for _, op := range ops {
			if err == nil {
				op.OK()
			} else {
				op.Unknown(err)
			}
		}
		if err != nil {
			g.mu.Lock()
			g.refusals++
			g.mu.Unlock()
		}
	}
}

// process notes what was read, and returns the ends of the partitions in it.
func (g *loadGroup) process(records []client.Record, member string) map[int32]int64 {
	ends := make(map[int32]int64)
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := 0; i < len(records); {
		p, first := records[i].Partition, records[i].Offset
		var run []history.Record
		for ; i < len(records) && records[i].Partition == p && records[i].Offset == first+int64(len(run)); i++ {
			run = append(run, history.Record{Offset: records[i].Offset, Value: string(records[i].Value)})
			if g.times[p] == nil {
				g.times[p] = make(map[int64]int)
			}
			g.times[p][records[i].Offset]++
		}
		ends[p] = first + int64(len(run))
		g.l.h.Read(member, history.Partition{Topic: loadTopic, Number: p}, first).OK(-1, run)
	}
	return ends
}

// finish waits until the group has processed all, and ends it.
func (g *loadGroup) finish() {
	g.t.Helper()
	harness.Eventually(g.t, patience, "the group has no lag", func(ctx context.Context) error {
		described, err := g.admin.DescribeGroup(ctx, groupName)
		if err == nil && described.Lag() > 0 {
			err = fmt.Errorf("lag is %d", described.Lag())
		}
		if err == nil && len(described.Members) == 0 {
			err = errors.New("it has no members")
		}
		return err
	})
	g.stop()
}

// requireProcessed checks that the group has processed a partition up to end, without a gap.
func (g *loadGroup) requireProcessed(partition int32, end int64) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for offset := range end {
		require.Positivef(g.t, g.times[partition][offset], "the group skipped offset %d of partition %d", offset, partition)
	}
}

// String tells how the group fared.
func (g *loadGroup) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	once, again := 0, 0
	for _, times := range g.times {
		for _, n := range times {
			once++
			if n > 1 {
				again++
			}
		}
	}
	return fmt.Sprintf("the group processed %d records, %d of them more than once, in %d changes of owners, and %d commits failed",
		once, again, g.handovers, g.refusals)
}
