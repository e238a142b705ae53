package group

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// simClient is a client as it behaves: it owns what it was told to, until it has given up what it no longer should.
type simClient struct {
	spec     Spec
	sequence int64 // of the request whose answer it waits for
	epoch    int32
	owned    []uint64
	giveUp   []uint64
}

// simulation is a group, its clients, and heartbeats that arrive late, twice, or never.
type simulation struct {
	t       *rapid.T
	group   *Group
	topics  map[string][]uint64
	clients []*simClient
	sent    []Heartbeat
}

func (s *simulation) now(spec Spec) map[string][]uint64 {
	topics := make(map[string][]uint64)
	for _, t := range slices.Concat(spec.Topics, s.group.Topics()) {
		if ids, ok := s.topics[t]; ok {
			topics[t] = ids
		}
	}
	return topics
}

func (s *simulation) send(c *simClient) Heartbeat {
	c.sequence++
	h := Heartbeat{Spec: c.spec, Sequence: c.sequence, Epoch: c.epoch, Owned: slices.Clone(c.owned)}
	s.sent = append(s.sent, h)
	return h
}

// deliver brings a heartbeat to the coordinator, and the answer to the client if it still waits for it.
func (s *simulation) deliver(h Heartbeat, answered bool) {
	h.Topics = s.now(h.Spec)
	settled, ok := s.group.Settled(h)
	answer, err := settled, error(nil)
	if ok {
		// What changes nothing must change nothing.
		before := fmt.Sprint(s.group.State())
		copied, restoreErr := Restore(s.group.State())
		if restoreErr != nil {
			s.t.Fatal(restoreErr)
		}
		same, applyErr := copied.Heartbeat(h)
		if applyErr != nil || !slices.Equal(same.Assigned, answer.Assigned) || same.Epoch != answer.Epoch {
			s.t.Fatalf("settled says %v, the group %v, %v", answer, same, applyErr)
		}
		after := copied.State()
		for i := range after.Members {
			after.Members[i].Sequence = s.group.State().Members[i].Sequence
		}
		if fmt.Sprint(after) != before {
			s.t.Fatalf("settled, and yet changed:\n%s\n%v", before, after)
		}
	} else {
		answer, err = s.group.Heartbeat(h)
	}
	for _, c := range s.clients {
		if !answered || c.spec.MemberID != h.Spec.MemberID || c.sequence != h.Sequence {
			continue
		}
		if err != nil {
			c.epoch, c.owned, c.giveUp = 0, nil, nil
			continue
		}
		c.epoch = answer.Epoch
		c.giveUp = without(c.owned, answer.Assigned)
		c.owned = append(c.owned, without(answer.Assigned, c.owned)...)
		slices.Sort(c.owned)
		c.sequence++ // the answer is taken once
	}
}

func (s *simulation) step() {
	pick := func(name string, n int) int { return rapid.IntRange(0, n-1).Draw(s.t, name) }
	c := s.clients[pick("client", len(s.clients))]
	switch pick("what", 8) {
	case 0, 1:
		s.deliver(s.send(c), true)
	case 2:
		s.send(c)
	case 3:
		if len(s.sent) > 0 {
			s.deliver(s.sent[pick("late", len(s.sent))], rapid.Bool().Draw(s.t, "answered"))
		}
	case 4, 5:
		c.owned, c.giveUp = without(c.owned, c.giveUp), nil
	case 6: // its session ends, here and there
		c.owned, c.giveUp = nil, nil
		_, _ = s.group.Leave(c.spec.MemberID, -1, false) // it may not be there
	case 7:
		topic := fmt.Sprintf("t%d", pick("topic", 3))
		var ids []uint64
		for i := range pick("partitions", 6) {
			ids = append(ids, uint64(int(topic[1]-'0')*100+i))
		}
		s.topics[topic] = ids
	}
}

// check: no partition is worked on by two clients.
func (s *simulation) check() {
	owner := make(map[uint64]string)
	for _, c := range s.clients {
		for _, id := range c.owned {
			if other := owner[id]; other != "" {
				s.t.Fatalf("partition id %d is owned by %s and %s\n%+v", id, other, c.spec.MemberID, s.group.State())
			}
			owner[id] = c.spec.MemberID
		}
	}
}

// settle lets all clients heartbeat until nothing changes, and checks that all is shared out.
func (s *simulation) settle() {
	for range 6 {
		for _, c := range s.clients {
			s.deliver(s.send(c), true)
			c.owned, c.giveUp = without(c.owned, c.giveUp), nil
			s.check()
		}
	}
	want := 0
	for _, t := range s.group.Topics() {
		want += len(s.topics[t])
	}
	got := 0
	for _, m := range s.group.State().Members {
		if m.Epoch != s.group.Epoch() || !slices.Equal(m.Assigned, m.Target) || len(m.Revoking) > 0 {
			s.t.Fatalf("not settled: %+v", m)
		}
		got += len(m.Assigned)
	}
	if got != want || s.group.moving {
		s.t.Fatalf("%d of %d partitions are assigned, moving %v", got, want, s.group.moving)
	}
}

// However heartbeats are delayed, repeated and lost, no partition ever has two owners, and in quiet times all have one.
func TestNoPartitionHasTwoOwners(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &simulation{t: rt, group: &Group{}, topics: map[string][]uint64{"t0": {0, 1, 2, 3}, "t1": {100, 101}}}
		for i := range rapid.IntRange(1, 5).Draw(rt, "clients") {
			topics := [][]string{{"t0"}, {"t0", "t1"}, {"t1", "t2"}}[rapid.IntRange(0, 2).Draw(rt, "topics")]
			s.clients = append(s.clients, &simClient{spec: Spec{MemberID: fmt.Sprintf("m%d", i), Topics: topics}})
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			s.step()
			s.check()
		}
		s.settle()
	})
}
