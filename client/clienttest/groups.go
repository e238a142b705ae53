package clienttest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// group is a consumer group. Sessions do not end by themselves: Expire ends them.
type group struct {
	epoch   int32
	members map[string]*member
}

type member struct {
	spec   *streamhousev1.GroupHeartbeatRequest
	epoch  int32
	commit int64 // sequence of the newest commit that was stored
	owned  map[topicPartition]bool
	given  []topicPartition // as last answered
}

type topicPartition struct {
	topic     string
	partition int32
}

func compareTopicPartitions(a, b topicPartition) int {
	return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
}

func groupError(reason streamhousev1.ErrorReason, message string) error {
	return Error(codes.FailedPrecondition, reason, message, nil)
}

// Expire ends the sessions of all members of a group, or of one.
func (c *Cluster) Expire(name string, members ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.groups[name]
	if g == nil {
		return
	}
	for id := range g.members {
		if len(members) == 0 || slices.Contains(members, id) {
			delete(g.members, id)
		}
	}
	g.epoch++
}

// Members returns the ids of a group's members, in order.
func (c *Cluster) Members(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.groups[name] == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.groups[name].members))
}

// GroupHeartbeat takes members in and spreads partitions evenly over them, in order of their ids. A partition goes to its
// new owner once the old one has given it up.
func (n *Node) GroupHeartbeat(_ context.Context, r *streamhousev1.GroupHeartbeatRequest) (*streamhousev1.GroupHeartbeatResponse, error) {
	res, err := n.heartbeat(r)
	if n.Answering != nil {
		n.Answering("GroupHeartbeat")
	}
	return res, err
}

func (n *Node) heartbeat(r *streamhousev1.GroupHeartbeatRequest) (*streamhousev1.GroupHeartbeatResponse, error) {
	unlock, err := n.enter("GroupHeartbeat")
	if err != nil {
		return nil, err
	}
	defer unlock()
	g := n.c.groups[r.GetGroup()]
	if g == nil {
		g = &group{members: make(map[string]*member)}
		n.c.groups[r.GetGroup()] = g
	}
	m := g.members[r.GetMemberId()]
	switch {
	case r.GetMemberEpoch() == 0:
		g.epoch++
		again := &member{spec: r, owned: make(map[topicPartition]bool)}
		if m != nil {
			again.commit = m.commit
		}
		m = again
		g.members[r.GetMemberId()] = m
	case m == nil:
		return nil, groupError(streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_MEMBER, "no such member")
	case r.GetMemberEpoch() != m.epoch:
		return nil, groupError(streamhousev1.ErrorReason_ERROR_REASON_FENCED_MEMBER_EPOCH, "stale epoch")
	default:
		m.release(r.GetOwned())
	}
	m.epoch = g.epoch
	m.given = nil
	for _, tp := range g.target(n.c, r.GetMemberId()) {
		if owner := g.owner(tp); owner == nil || owner == m {
			m.owned[tp] = true
			m.given = append(m.given, tp)
		}
	}
	return &streamhousev1.GroupHeartbeatResponse{MemberEpoch: m.epoch, HeartbeatIntervalMs: 10, Assigned: n.c.withIDsLocked(protoPartitions(m.given))}, nil
}

// withIDsLocked fills in the ids of partitions.
func (c *Cluster) withIDsLocked(list []*streamhousev1.TopicPartitions) []*streamhousev1.TopicPartitions {
	for _, tp := range list {
		for _, number := range tp.GetPartitions() {
			tp.PartitionIds = append(tp.PartitionIds, c.topics[tp.GetTopic()].info.GetPartitions()[number].GetId())
		}
	}
	return list
}

// release takes away what the member no longer works on, of what it was told that it has.
func (m *member) release(owned []*streamhousev1.TopicPartitions) {
	still := make(map[topicPartition]bool)
	for _, tp := range owned {
		for _, p := range tp.GetPartitions() {
			still[topicPartition{tp.GetTopic(), p}] = true
		}
	}
	for tp := range m.owned {
		if !still[tp] && !slices.Contains(m.given, tp) {
			delete(m.owned, tp)
		}
	}
}

func (g *group) owner(tp topicPartition) *member {
	for _, m := range g.members {
		if m.owned[tp] {
			return m
		}
	}
	return nil
}

// target is what a member should have.
func (g *group) target(c *Cluster, id string) []topicPartition {
	var all []topicPartition
	for _, name := range g.members[id].spec.GetTopics() {
		if t := c.topics[name]; t != nil {
			for p := range t.partitions {
				all = append(all, topicPartition{name, int32(p)})
			}
		}
	}
	slices.SortFunc(all, compareTopicPartitions)
	ids := slices.Sorted(maps.Keys(g.members))
	var out []topicPartition
	for i, tp := range all {
		if ids[i%len(ids)] == id {
			out = append(out, tp)
		}
	}
	return out
}

func protoPartitions(list []topicPartition) []*streamhousev1.TopicPartitions {
	byTopic := make(map[string]*streamhousev1.TopicPartitions)
	var out []*streamhousev1.TopicPartitions
	for _, tp := range list {
		if byTopic[tp.topic] == nil {
			byTopic[tp.topic] = &streamhousev1.TopicPartitions{Topic: tp.topic}
			out = append(out, byTopic[tp.topic])
		}
		byTopic[tp.topic].Partitions = append(byTopic[tp.topic].Partitions, tp.partition)
	}
	return out
}

// LeaveGroup removes a member.
func (n *Node) LeaveGroup(_ context.Context, r *streamhousev1.LeaveGroupRequest) (*streamhousev1.LeaveGroupResponse, error) {
	unlock, err := n.enter("LeaveGroup")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if g := n.c.groups[r.GetGroup()]; g != nil {
		delete(g.members, r.GetMemberId())
		g.epoch++
	}
	return &streamhousev1.LeaveGroupResponse{}, nil
}

// CommitOffset stores offsets, for a member only of what it owns, and not behind a newer commit of its own.
func (n *Node) CommitOffset(_ context.Context, r *streamhousev1.CommitOffsetRequest) (*streamhousev1.CommitOffsetResponse, error) {
	res, err := n.commit(r)
	if n.Answering != nil {
		n.Answering("CommitOffset")
	}
	return res, err
}

func (n *Node) commit(r *streamhousev1.CommitOffsetRequest) (*streamhousev1.CommitOffsetResponse, error) {
	unlock, err := n.enter("CommitOffset")
	if err != nil {
		return nil, err
	}
	defer unlock()
	m, err := n.c.committerLocked(r)
	if err != nil {
		return nil, err
	}
	if m != nil && r.GetCommitSequence() > 0 && r.GetCommitSequence() == m.commit {
		return &streamhousev1.CommitOffsetResponse{}, nil // stored before
	}
	if err := m.mayCommit(r); err != nil {
		return nil, err
	}
	for _, o := range r.GetOffsets() {
		if err := n.c.checkIDLocked(r.GetTopic(), o.GetPartition(), o.GetPartitionId()); err != nil {
			return nil, err
		}
	}
	for _, o := range r.GetOffsets() {
		n.c.offsets[offsetKey{r.GetGroup(), r.GetTopic(), o.GetPartition()}] = o
	}
	if m != nil {
		m.commit = max(m.commit, r.GetCommitSequence())
	}
	return &streamhousev1.CommitOffsetResponse{}, nil
}

// committerLocked returns the member that commits, nil where the group has none.
func (c *Cluster) committerLocked(r *streamhousev1.CommitOffsetRequest) (*member, error) {
	g := c.groups[r.GetGroup()]
	if r.GetMemberId() == "" {
		if g != nil && len(g.members) > 0 {
			return nil, groupError(streamhousev1.ErrorReason_ERROR_REASON_GROUP_NOT_EMPTY, "the group has members")
		}
		return nil, nil
	}
	if g == nil || g.members[r.GetMemberId()] == nil {
		return nil, groupError(streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_MEMBER, "no such member")
	}
	return g.members[r.GetMemberId()], nil
}

// mayCommit refuses what a member may not commit; nobody may commit all.
func (m *member) mayCommit(r *streamhousev1.CommitOffsetRequest) error {
	if m == nil {
		return nil
	}
	if sequence := r.GetCommitSequence(); sequence > 0 && sequence < m.commit {
		return groupError(streamhousev1.ErrorReason_ERROR_REASON_STALE_COMMIT, "a newer commit was stored before")
	}
	if m.epoch != r.GetMemberEpoch() {
		return groupError(streamhousev1.ErrorReason_ERROR_REASON_FENCED_MEMBER_EPOCH, "stale epoch")
	}
	for _, o := range r.GetOffsets() {
		if !m.owned[topicPartition{r.GetTopic(), o.GetPartition()}] {
			return groupError(streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_OWNED, "not owned")
		}
	}
	return nil
}

// GetOffset returns what was stored.
func (n *Node) GetOffset(_ context.Context, r *streamhousev1.GetOffsetRequest) (*streamhousev1.GetOffsetResponse, error) {
	unlock, err := n.enter("GetOffset")
	if err != nil {
		return nil, err
	}
	defer unlock()
	resp := &streamhousev1.GetOffsetResponse{}
	for k, o := range n.c.offsets {
		if k.group == r.GetGroup() && k.topic == r.GetTopic() && (len(r.GetPartitions()) == 0 || slices.Contains(r.GetPartitions(), k.partition)) {
			resp.Offsets = append(resp.Offsets, o)
		}
	}
	slices.SortFunc(resp.Offsets, func(a, b *streamhousev1.CommittedOffset) int { return cmp.Compare(a.GetPartition(), b.GetPartition()) })
	return resp, nil
}

// knownLocked returns the names of groups with members or offsets, in order.
func (c *Cluster) knownLocked() []string {
	names := make(map[string]bool)
	for name, g := range c.groups {
		names[name] = names[name] || len(g.members) > 0
	}
	for k := range c.offsets {
		names[k.group] = true
	}
	maps.DeleteFunc(names, func(_ string, known bool) bool { return !known })
	return slices.Sorted(maps.Keys(names))
}

func (c *Cluster) groupStateLocked(name string) (streamhousev1.GroupState, int32) {
	g := c.groups[name]
	if g == nil || len(g.members) == 0 {
		return streamhousev1.GroupState_GROUP_STATE_EMPTY, 0
	}
	return streamhousev1.GroupState_GROUP_STATE_STABLE, int32(len(g.members))
}

// ListGroups lists groups with members or offsets.
func (n *Node) ListGroups(context.Context, *streamhousev1.ListGroupsRequest) (*streamhousev1.ListGroupsResponse, error) {
	unlock, err := n.enter("ListGroups")
	if err != nil {
		return nil, err
	}
	defer unlock()
	resp := &streamhousev1.ListGroupsResponse{}
	for _, name := range n.c.knownLocked() {
		state, members := n.c.groupStateLocked(name)
		resp.Groups = append(resp.Groups, &streamhousev1.GroupListing{Group: name, State: state, Members: members, Shard: 2})
	}
	return resp, nil
}

func groupNotFound(name string) error {
	return Error(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_GROUP_NOT_FOUND, "group "+strconv.Quote(name)+" does not exist", nil)
}

// DescribeGroup shows members and lag.
func (n *Node) DescribeGroup(_ context.Context, r *streamhousev1.DescribeGroupRequest) (*streamhousev1.DescribeGroupResponse, error) {
	unlock, err := n.enter("DescribeGroup")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !slices.Contains(n.c.knownLocked(), r.GetGroup()) {
		return nil, groupNotFound(r.GetGroup())
	}
	state, _ := n.c.groupStateLocked(r.GetGroup())
	resp := &streamhousev1.DescribeGroupResponse{Group: r.GetGroup(), State: state, Epoch: 1, Shard: 2, Coordinator: "n1"}
	owners := make(map[topicPartition]string)
	if g := n.c.groups[r.GetGroup()]; g != nil {
		resp.Epoch = g.epoch
		for _, id := range slices.Sorted(maps.Keys(g.members)) {
			m := g.members[id]
			owned := slices.SortedFunc(maps.Keys(m.owned), compareTopicPartitions)
			for _, tp := range owned {
				owners[tp] = id
			}
			resp.Members = append(resp.Members, &streamhousev1.GroupMember{
				MemberId: id, InstanceId: m.spec.GetInstanceId(), ClientId: m.spec.GetClientId(), ClientHost: "127.0.0.1",
				MemberEpoch: m.epoch, Topics: m.spec.GetTopics(), Assigned: protoPartitions(owned),
			})
		}
	}
	resp.Partitions = n.c.groupPartitionsLocked(r.GetGroup(), owners)
	return resp, nil
}

func (c *Cluster) groupPartitionsLocked(name string, owners map[topicPartition]string) []*streamhousev1.GroupPartition {
	reads := make(map[string]bool) // topics; none for a group that never had members
	if g := c.groups[name]; g != nil {
		for _, m := range g.members {
			for _, topic := range m.spec.GetTopics() {
				reads[topic] = true
			}
		}
		for key := range c.offsets {
			reads[key.topic] = reads[key.topic] || key.group == name
		}
	}
	var out []*streamhousev1.GroupPartition
	for _, topic := range slices.Sorted(maps.Keys(c.topics)) {
		for i, p := range c.topics[topic].partitions {
			o := c.offsets[offsetKey{name, topic, int32(i)}]
			owner := owners[topicPartition{topic, int32(i)}]
			if o == nil && owner == "" && !reads[topic] {
				continue
			}
			end := p.start + int64(len(p.records))
			gp := &streamhousev1.GroupPartition{Topic: topic, Partition: int32(i), CommittedOffset: -1, LogStartOffset: p.start, HighWatermark: end, Lag: end - p.start, MemberId: owner}
			if o != nil {
				gp.CommittedOffset, gp.Metadata, gp.Lag = o.GetOffset(), o.GetMetadata(), end-max(o.GetOffset(), p.start)
			}
			out = append(out, gp)
		}
	}
	return out
}

// DeleteGroup deletes a group without members.
func (n *Node) DeleteGroup(_ context.Context, r *streamhousev1.DeleteGroupRequest) (*streamhousev1.DeleteGroupResponse, error) {
	unlock, err := n.enter("DeleteGroup")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !slices.Contains(n.c.knownLocked(), r.GetGroup()) {
		return nil, groupNotFound(r.GetGroup())
	}
	if g := n.c.groups[r.GetGroup()]; g != nil && len(g.members) > 0 {
		return nil, groupError(streamhousev1.ErrorReason_ERROR_REASON_GROUP_NOT_EMPTY, "the group has members")
	}
	delete(n.c.groups, r.GetGroup())
	maps.DeleteFunc(n.c.offsets, func(k offsetKey, _ *streamhousev1.CommittedOffset) bool { return k.group == r.GetGroup() })
	return &streamhousev1.DeleteGroupResponse{}, nil
}
