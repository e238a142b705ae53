package group

// Size is what a group takes of the bounds that many groups share.
type Size struct {
	// Members is how many members there are, and TopicBytes the bytes of the names of the topics that each subscribes to.
	Members, TopicBytes int
}

// Add returns the sum.
func (s Size) Add(o Size) Size { return Size{s.Members + o.Members, s.TopicBytes + o.TopicBytes} }

// Sub returns the difference.
func (s Size) Sub(o Size) Size { return Size{s.Members - o.Members, s.TopicBytes - o.TopicBytes} }

// TopicBytes returns the bytes of the names of the topics that a member subscribes to.
func (s Spec) TopicBytes() int {
	n := 0
	for _, t := range s.Topics {
		n += len(t)
	}
	return n
}

// Size returns the group's size.
func (g *Group) Size() Size { return Size{len(g.members), g.topicBytes} }

// Growth returns by how much a heartbeat that is taken makes the group larger.
func (g *Group) Growth(h Heartbeat) Size {
	m := g.members[h.Spec.MemberID]
	if old := g.instance(h.Spec.InstanceID); m == nil && old != nil {
		m = old // it comes back under another id
	}
	if m == nil {
		return Size{1, h.Spec.TopicBytes()}
	}
	return Size{0, h.Spec.TopicBytes() - m.spec.TopicBytes()}
}
