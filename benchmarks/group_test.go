package benchmarks

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// member is a consumer as the coordinator sees it: heartbeats, and nothing else.
type member struct {
	node     *harness.Node
	req      *streamhousev1.GroupHeartbeatRequest
	interval time.Duration
}

func newMember(node *harness.Node, group, id string) *member {
	return &member{node: node, req: &streamhousev1.GroupHeartbeatRequest{
		Group: group, MemberId: id, ClientId: "bench", Topics: []string{topicName},
	}}
}

// beat sends one heartbeat. What is no longer assigned is given up before the next.
func (m *member) beat(ctx context.Context) error {
	m.req.Sequence++
	res, err := m.node.GroupHeartbeat(ctx, m.req)
	if err != nil {
		return err
	}
	m.req.MemberEpoch, m.req.Owned = res.GetMemberEpoch(), res.GetAssigned()
	m.interval = time.Duration(res.GetHeartbeatIntervalMs()) * time.Millisecond
	return nil
}

// run sends heartbeats until ctx ends.
func (m *member) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := m.beat(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("member %s: %w", m.req.GetMemberId(), err)
		}
		idle(ctx, m.interval)
	}
	return nil
}

// leave takes the member out of its group; it may join again.
func (m *member) leave(b *testing.B) {
	b.Helper()
	_, err := m.node.LeaveGroup(b.Context(), &streamhousev1.LeaveGroupRequest{
		Group: m.req.GetGroup(), MemberId: m.req.GetMemberId(), MemberEpoch: m.req.GetMemberEpoch(),
	})
	if err != nil {
		b.Fatal(harness.Describe(err))
	}
	m.req.MemberEpoch, m.req.Owned = 0, nil
}

// crowd runs members until the returned function is called.
func crowd(b *testing.B, members []*member) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() {
			if err := m.run(ctx); err != nil {
				b.Error(err)
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// BenchmarkGroupHeartbeats measures what the heartbeats of many members cost a node.
func BenchmarkGroupHeartbeats(b *testing.B) {
	b.Run("members=1000/groups=100", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(nil)})
		c.CreateTopic(topicName, 10, nil)
		c.WaitInSync(time.Minute)
		var members []*member
		for i := range pick(1000, 50) {
			members = append(members, newMember(c.Nodes[0], fmt.Sprintf("g%d", i%pick(100, 5)), fmt.Sprintf("m%d", i)))
		}
		defer crowd(b, members)()
		var cpu []float64
		for b.Loop() {
			idle(b.Context(), pick(15*time.Second, time.Second)) // let all join
			before := make(map[string]float64)
			for _, n := range c.Nodes {
				_, before[n.ID] = usage(b, n.Process().PID())
			}
			start := time.Now()
			idle(b.Context(), pick(30*time.Second, time.Second))
			took := time.Since(start).Seconds()
			for _, n := range c.Nodes {
				_, seconds := usage(b, n.Process().PID())
				cpu = append(cpu, 100*(seconds-before[n.ID])/took)
			}
		}
		b.Logf("%% of a core %.1f", cpu)
		note(b, "heartbeats of 1,000 members in 100 groups: CPU, worst node", percentile(cpu, 100), "% of a core", atMost(10))
	})
}

// BenchmarkRebalance measures how long it takes until 100 members share 1,000 partitions, after half of them came.
func BenchmarkRebalance(b *testing.B) {
	b.Run("members=100/partitions=1000", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(nil)})
		c.CreateTopic(topicName, pick[int32](1000, 50), nil)
		c.WaitInSync(time.Minute)
		n := pick(100, 10)
		var members []*member
		for i := range n {
			members = append(members, newMember(c.Nodes[i%3], "g", fmt.Sprintf("m%03d", i)))
		}
		var came []float64
		for b.Loop() {
			first := crowd(b, members[:n/2])
			settled(b, c.Nodes[0], n/2)
			start := time.Now()
			second := crowd(b, members[n/2:])
			settled(b, c.Nodes[0], n)
			came = append(came, time.Since(start).Seconds())
			second()
			first()
			for _, m := range members {
				m.leave(b)
			}
		}
		note(b, "rebalance of 100 members over 1,000 partitions", median(came), "s", atMost(5))
	})
}

// settled waits until the group is stable with n members.
func settled(b *testing.B, node *harness.Node, n int) {
	b.Helper()
	harness.Eventually(b, time.Minute, "the group is stable", func(ctx context.Context) error {
		res, err := node.ListGroups(ctx, &streamhousev1.ListGroupsRequest{})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(res.GetGroups(), func(g *streamhousev1.GroupListing) bool { return g.GetGroup() == "g" })
		if i < 0 || int(res.GetGroups()[i].GetMembers()) != n || res.GetGroups()[i].GetState() != streamhousev1.GroupState_GROUP_STATE_STABLE {
			return fmt.Errorf("groups: %s", res)
		}
		return nil
	})
}
