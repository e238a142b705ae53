package broker

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	maxGroupTopics          = 1000
	maxClientIDBytes        = 249
	defaultSessionTimeout   = 30 * time.Second
	minSessionTimeout       = time.Second
	maxSessionTimeout       = 30 * time.Minute
	defaultRebalanceTimeout = 5 * time.Minute
	minRebalanceTimeout     = time.Second
	maxRebalanceTimeout     = 24 * time.Hour
	// heartbeatsPerSession is how many heartbeats may be lost, about, before a session ends.
	heartbeatsPerSession = 6
	maxHeartbeatInterval = 3 * time.Second
	// waitingInterval is for a member that waits for partitions, or has some to give up.
	waitingInterval = 250 * time.Millisecond
)

// GroupHeartbeat takes a member into a consumer group or keeps it there, and says what it may work on.
func (b *Broker) GroupHeartbeat(ctx context.Context, req *streamhousev1.GroupHeartbeatRequest, clientHost string) (*streamhousev1.GroupHeartbeatResponse, error) {
	spec, err := groupSpec(req, clientHost)
	if err != nil {
		return nil, err
	}
	owned, err := b.partitionIDs(ctx, req.GetOwned())
	if err != nil {
		return nil, err
	}
	hb := shard.FromHeartbeat(group.Heartbeat{Spec: spec, Sequence: req.GetSequence(), Epoch: req.GetMemberEpoch(), Owned: owned})
	cmd := &metav1.GroupCommand{Group: req.GetGroup(), Command: &metav1.GroupCommand_Heartbeat{Heartbeat: hb}}
	answer, err := b.runGroup(ctx, cmd)
	if err != nil {
		return nil, err
	}
	interval := min(time.Duration(spec.SessionTimeoutMs)*time.Millisecond/heartbeatsPerSession, maxHeartbeatInterval)
	if answer.Waiting {
		interval = min(interval, waitingInterval)
	}
	assigned, err := b.assigned(ctx, answer.Assigned)
	if err != nil {
		return nil, err
	}
	return &streamhousev1.GroupHeartbeatResponse{
		MemberEpoch: answer.Epoch, HeartbeatIntervalMs: int32(interval.Milliseconds()), Assigned: assigned,
	}, nil
}

// groupSpec checks what a member says of itself and fills in defaults.
func groupSpec(req *streamhousev1.GroupHeartbeatRequest, clientHost string) (group.Spec, error) {
	if err := checkMember(req.GetGroup(), req.GetMemberId(), req.GetMemberEpoch()); err != nil {
		return group.Spec{}, err
	}
	if id := req.GetInstanceId(); id != "" && fsm.ValidateName(id) != nil {
		return group.Spec{}, InvalidField("instance_id", "%s", fsm.ValidateName(id))
	}
	if n := len(req.GetClientId()); n > maxClientIDBytes {
		return group.Spec{}, InvalidField("client_id", "it has %d bytes, at most %d are allowed", n, maxClientIDBytes)
	}
	if req.GetSequence() <= 0 {
		return group.Spec{}, InvalidField("sequence", "%d is not above 0", req.GetSequence())
	}
	topics, err := subscription(req.GetTopics())
	if err != nil {
		return group.Spec{}, err
	}
	session, err := timeout("session_timeout_ms", req.GetSessionTimeoutMs(), defaultSessionTimeout, minSessionTimeout, maxSessionTimeout)
	if err != nil {
		return group.Spec{}, err
	}
	rebalance, err := timeout("rebalance_timeout_ms", req.GetRebalanceTimeoutMs(), defaultRebalanceTimeout, minRebalanceTimeout, maxRebalanceTimeout)
	if err != nil {
		return group.Spec{}, err
	}
	return group.Spec{
		MemberID: req.GetMemberId(), InstanceID: req.GetInstanceId(), ClientID: req.GetClientId(), ClientHost: clientHost,
		Topics: topics, SessionTimeoutMs: session, RebalanceTimeoutMs: rebalance,
	}, nil
}

// subscription checks the topics that a member subscribes to, and puts them in order.
func subscription(names []string) ([]string, error) {
	topics := slices.Compact(slices.Sorted(slices.Values(names)))
	if n := len(topics); n == 0 || n > maxGroupTopics {
		return nil, InvalidField("topics", "%d of them, 1 to %d are allowed", n, maxGroupTopics)
	}
	for _, t := range topics {
		if err := fsm.ValidateName(t); err != nil {
			return nil, InvalidField("topics", "%s", err)
		}
	}
	if n := (group.Spec{Topics: topics}).TopicBytes(); n > shard.MaxSubscriptionBytes {
		return nil, InvalidField("topics", "their names have %d bytes together, at most %d are allowed", n, shard.MaxSubscriptionBytes)
	}
	return topics, nil
}

func checkMember(groupName, memberID string, epoch int32) error {
	if err := checkGroup(groupName); err != nil {
		return err
	}
	if err := fsm.ValidateName(memberID); err != nil {
		return InvalidField("member_id", "%s", err)
	}
	if epoch < 0 {
		return InvalidField("member_epoch", "%d is below 0", epoch)
	}
	return nil
}

// timeout returns the milliseconds of a field, or its default where it is 0.
func timeout(field string, ms int32, byDefault, least, most time.Duration) (int32, error) {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case ms == 0:
		return int32(byDefault.Milliseconds()), nil
	case d < least || d > most:
		return 0, InvalidField(field, "%s is not from %s to %s", d, least, most)
	default:
		return ms, nil
	}
}

// LeaveGroup removes a member from its group. One that is no member any more has left.
func (b *Broker) LeaveGroup(ctx context.Context, req *streamhousev1.LeaveGroupRequest) (*streamhousev1.LeaveGroupResponse, error) {
	if err := checkMember(req.GetGroup(), req.GetMemberId(), req.GetMemberEpoch()); err != nil {
		return nil, err
	}
	leave := &metav1.GroupLeave{MemberId: req.GetMemberId(), Epoch: req.GetMemberEpoch(), Away: req.GetAway()}
	_, err := b.runGroup(ctx, &metav1.GroupCommand{Group: req.GetGroup(), Command: &metav1.GroupCommand_Leave{Leave: leave}})
	if err != nil && AsError(err).Reason != reasonUnknownMember {
		return nil, err
	}
	return &streamhousev1.LeaveGroupResponse{}, nil
}

// DeleteGroup deletes a group that has no members, with its committed offsets.
func (b *Broker) DeleteGroup(ctx context.Context, req *streamhousev1.DeleteGroupRequest) (*streamhousev1.DeleteGroupResponse, error) {
	if err := checkGroup(req.GetGroup()); err != nil {
		return nil, err
	}
	_, err := b.runGroup(ctx, &metav1.GroupCommand{Group: req.GetGroup(), Command: &metav1.GroupCommand_Delete{Delete: &metav1.GroupDelete{}}})
	if err != nil && AsError(err).Reason == reasonGroupNotFound {
		return nil, groupNotFound(req.GetGroup())
	}
	if err != nil {
		return nil, err
	}
	return &streamhousev1.DeleteGroupResponse{}, nil
}

func groupNotFound(name string) *Error {
	return newError(reasonGroupNotFound, "there is no consumer group %q: it has neither members nor committed offsets", name)
}

// groupShard returns the shard that a group belongs to. A node that has just started may not know the cluster's shards; it must
// not guess one, or a group has two coordinators that give its partitions to two members.
func (b *Broker) groupShard(ctx context.Context, name string) (uint32, error) {
	view, err := b.viewOfShards(ctx)
	if err != nil {
		return 0, err
	}
	number, ok := view.GroupShard(name)
	if !ok {
		return 0, newError(reasonNoLeader, "the cluster has no shards yet")
	}
	return number, nil
}

// viewOfShards returns a view that knows the cluster's shards, if it has any yet.
func (b *Broker) viewOfShards(ctx context.Context) (*fsm.View, error) {
	if view := b.meta.View(); view.NumShards() > 0 {
		return view, nil
	}
	if err := b.meta.Barrier(ctx); err != nil {
		return nil, err
	}
	return b.meta.View(), nil
}

// runGroup applies a command on the group's coordinator. A heartbeat and a leave do no harm twice; nor does a delete,
// whose second attempt finds no group.
func (b *Broker) runGroup(ctx context.Context, cmd *metav1.GroupCommand) (group.Answer, error) {
	var answer group.Answer
	number, err := b.groupShard(ctx, cmd.GetGroup())
	if err != nil {
		return answer, err
	}
	err = b.onLeader(ctx, leaderCall{shard: number, repeatable: true, attemptTimeout: appendAttempt}, func(ctx context.Context, t target) error {
		if t.local != nil {
			var err error
			answer, err = t.local.RunGroup(ctx, cmd)
			return again(t, cmd, err)
		}
		data, err := proto.Marshal(cmd)
		if err != nil {
			return err
		}
		res, err := ask(ctx, b, &nodev1.RunGroupRequest{Shard: number, Command: data}, t.client.RunGroup)
		answer = group.Answer{Epoch: res.GetMemberEpoch(), Assigned: res.GetAssigned(), Waiting: res.GetWaiting()}
		return again(t, cmd, err)
	})
	return answer, err
}

// again takes it for success that what an earlier attempt may have removed is not there.
func again(t target, cmd *metav1.GroupCommand, err error) error {
	if err == nil || !t.unclear {
		return err
	}
	switch reason := AsError(err).Reason; {
	case cmd.GetDelete() != nil && reason == reasonGroupNotFound, cmd.GetLeave() != nil && reason == reasonUnknownMember:
		return nil
	default:
		return err
	}
}

// partitionIDs returns the ids of those partitions that exist, in order. A partition that this node has not heard of yet
// must not be left out: it would count as given up. So it waits once, for all of them, for what was committed.
func (b *Broker) partitionIDs(ctx context.Context, list []*streamhousev1.TopicPartitions) ([]uint64, error) {
	ids, all, err := b.knownIDs(list)
	if err == nil && !all {
		if err = b.meta.Barrier(ctx); err == nil {
			ids, _, err = b.knownIDs(list)
		}
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// knownIDs returns the ids of those partitions that this node knows, or that the member has told; all is false when there
// are others.
func (b *Broker) knownIDs(list []*streamhousev1.TopicPartitions) (ids []uint64, all bool, err error) {
	all = true
	for _, tp := range list {
		if err := fsm.ValidateName(tp.GetTopic()); err != nil {
			return nil, false, InvalidField("owned.topic", "%s", err)
		}
		if len(tp.GetPartitionIds()) > 0 {
			if len(tp.GetPartitionIds()) != len(tp.GetPartitions()) {
				return nil, false, InvalidField("owned.partition_ids", "%d of them for %d partitions", len(tp.GetPartitionIds()), len(tp.GetPartitions()))
			}
			ids = append(ids, tp.GetPartitionIds()...)
			continue
		}
		t, known := b.meta.View().Topic(tp.GetTopic())
		for _, number := range tp.GetPartitions() {
			if number < 0 {
				return nil, false, InvalidField("owned.partitions", "%d is below 0", number)
			}
			if !known || int(number) >= len(t.PartitionIDs) {
				all = false
				continue
			}
			ids = append(ids, t.PartitionIDs[number])
		}
	}
	return ids, all, nil
}

// assigned is the way back from partitionIDs. A partition that this node has not heard of yet must not be left out,
// either: the member would give it up.
func (b *Broker) assigned(ctx context.Context, ids []uint64) ([]*streamhousev1.TopicPartitions, error) {
	view := b.meta.View()
	for _, id := range ids {
		if _, known := view.Partition(id); known {
			continue
		}
		if err := b.meta.Barrier(ctx); err != nil {
			return nil, err
		}
		break
	}
	return b.topicPartitions(ids), nil
}

// topicPartitions names partitions, in order of topics and partitions. What was deleted is left out.
func (b *Broker) topicPartitions(ids []uint64) []*streamhousev1.TopicPartitions {
	view := b.meta.View()
	byTopic := make(map[string]*streamhousev1.TopicPartitions)
	var out []*streamhousev1.TopicPartitions
	for _, id := range ids {
		topic, number, ok := partitionName(view, id)
		if !ok {
			continue
		}
		tp := byTopic[topic]
		if tp == nil {
			tp = &streamhousev1.TopicPartitions{Topic: topic}
			byTopic[topic] = tp
			out = append(out, tp)
		}
		tp.Partitions, tp.PartitionIds = append(tp.Partitions, number), append(tp.PartitionIds, id)
	}
	slices.SortFunc(out, func(x, y *streamhousev1.TopicPartitions) int { return cmp.Compare(x.GetTopic(), y.GetTopic()) })
	return out
}

func partitionName(view *fsm.View, id uint64) (topic string, number int32, ok bool) {
	p, ok := view.Partition(id)
	if !ok {
		return "", 0, false
	}
	t, ok := view.TopicByUUID(p.TopicUUID)
	if !ok {
		return "", 0, false
	}
	return t.Name, p.Number, true
}

// shardGroups returns these groups of a shard, or all, from its leader.
func (b *Broker) shardGroups(ctx context.Context, number uint32, names ...string) (groups []*metav1.ShardGroup, coordinator string, err error) {
	call := leaderCall{shard: number, repeatable: true, read: true, attemptTimeout: appendAttempt}
	err = b.onLeader(ctx, call, func(ctx context.Context, t target) error {
		coordinator = t.nodeID
		if t.local != nil {
			var err error
			groups, err = t.local.GroupStates(names)
			return err
		}
		res, err := ask(ctx, b, &nodev1.GetGroupsRequest{Shard: number, Groups: names}, t.client.GetGroups)
		if err != nil {
			return err
		}
		groups = make([]*metav1.ShardGroup, len(res.GetGroups()))
		for i, data := range res.GetGroups() {
			groups[i] = &metav1.ShardGroup{}
			if err := proto.Unmarshal(data, groups[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", notFound(err, number)
	}
	return groups, coordinator, nil
}

// ListGroups returns all consumer groups of the cluster.
func (b *Broker) ListGroups(ctx context.Context, _ *streamhousev1.ListGroupsRequest) (*streamhousev1.ListGroupsResponse, error) {
	view, err := b.viewOfShards(ctx)
	if err != nil {
		return nil, err
	}
	shards := min(view.NumShards(), fsm.GroupSlots)
	found := make([][]*metav1.ShardGroup, shards)
	eg, egCtx := errgroup.WithContext(ctx)
	eg.SetLimit(listParallel)
	for number := range shards {
		eg.Go(func() error {
			var err error
			found[number], _, err = b.shardGroups(egCtx, number)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	res := &streamhousev1.ListGroupsResponse{}
	for number, groups := range found {
		for _, g := range groups {
			res.Groups = append(res.Groups, &streamhousev1.GroupListing{
				Group: g.GetGroup(), State: groupState(g), Members: int32(len(g.GetMembers())), Shard: uint32(number),
			})
		}
	}
	slices.SortFunc(res.Groups, func(x, y *streamhousev1.GroupListing) int { return cmp.Compare(x.GetGroup(), y.GetGroup()) })
	return res, nil
}

func groupState(g *metav1.ShardGroup) streamhousev1.GroupState {
	switch {
	case len(g.GetMembers()) == 0:
		return streamhousev1.GroupState_GROUP_STATE_EMPTY
	case g.GetMoving():
		return streamhousev1.GroupState_GROUP_STATE_REBALANCING
	default:
		return streamhousev1.GroupState_GROUP_STATE_STABLE
	}
}

// DescribeGroup returns a group with its members, assignments, offsets and lag.
func (b *Broker) DescribeGroup(ctx context.Context, req *streamhousev1.DescribeGroupRequest) (*streamhousev1.DescribeGroupResponse, error) {
	if err := checkGroup(req.GetGroup()); err != nil {
		return nil, err
	}
	number, err := b.groupShard(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	groups, coordinator, err := b.shardGroups(ctx, number, req.GetGroup())
	if err != nil {
		return nil, err
	}
	if len(groups) == 0 {
		return nil, groupNotFound(req.GetGroup())
	}
	offsets, err := b.groupOffsets(ctx, req.GetGroup(), nil)
	if err != nil {
		return nil, err
	}
	g := groups[0]
	res := &streamhousev1.DescribeGroupResponse{
		Group: g.GetGroup(), State: groupState(g), Epoch: g.GetEpoch(), Shard: number, Coordinator: coordinator,
	}
	for _, m := range g.GetMembers() {
		s := m.GetSpec()
		res.Members = append(res.Members, &streamhousev1.GroupMember{
			MemberId: s.GetMemberId(), InstanceId: s.GetInstanceId(), ClientId: s.GetClientId(), ClientHost: s.GetClientHost(),
			MemberEpoch: m.GetEpoch(), Topics: s.GetTopics(), Away: m.GetAway(),
			Assigned: b.topicPartitions(m.GetAssigned()), Revoking: b.topicPartitions(m.GetRevoking()),
		})
	}
	res.Partitions, err = b.groupPartitions(ctx, g, offsets)
	return res, err
}

// groupPartitions describes every partition of the topics that a group reads or has read: also one that has neither an owner
// nor a committed offset is left to read, where the members went before they began with it. A group that never had members
// reads the partitions that it has committed for, and no others.
func (b *Broker) groupPartitions(ctx context.Context, g *metav1.ShardGroup, offsets []shard.GroupOffset) ([]*streamhousev1.GroupPartition, error) {
	view := b.meta.View()
	all := make(map[uint64]*streamhousev1.GroupPartition)
	partition := func(id uint64) *streamhousev1.GroupPartition {
		if all[id] == nil {
			all[id] = &streamhousev1.GroupPartition{CommittedOffset: -1}
		}
		return all[id]
	}
	topics := make(map[string]bool)
	for _, m := range g.GetMembers() {
		for _, topic := range m.GetSpec().GetTopics() {
			topics[topic] = true
		}
		for _, id := range slices.Concat(m.GetAssigned(), m.GetRevoking()) {
			partition(id).MemberId = m.GetSpec().GetMemberId()
		}
	}
	for _, o := range offsets {
		p := partition(o.PartitionID)
		p.CommittedOffset, p.Metadata = o.Offset, o.Metadata
	}
	for id := range all {
		if topic, _, ok := partitionName(view, id); ok && g.GetEpoch() > 0 {
			topics[topic] = true
		}
	}
	for topic := range topics {
		if t, ok := view.Topic(topic); ok {
			for _, id := range t.PartitionIDs {
				partition(id)
			}
		}
	}
	var mu sync.Mutex
	var out []*streamhousev1.GroupPartition
	eg, egCtx := errgroup.WithContext(ctx)
	eg.SetLimit(listParallel)
	for id, p := range all {
		var ok bool
		if p.Topic, p.Partition, ok = partitionName(view, id); !ok {
			continue // deleted
		}
		eg.Go(func() error {
			if err := b.fillLag(egCtx, p); err != nil {
				if p.GetMemberId() == "" && p.GetCommittedOffset() < 0 {
					return nil // nobody has begun with it: the answer does without it where nobody tells
				}
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, p)
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(x, y *streamhousev1.GroupPartition) int {
		return cmp.Or(cmp.Compare(x.GetTopic(), y.GetTopic()), cmp.Compare(x.GetPartition(), y.GetPartition()))
	})
	return out, nil
}

func (b *Broker) fillLag(ctx context.Context, p *streamhousev1.GroupPartition) error {
	at, err := b.partitionOf(ctx, p.GetTopic(), p.GetPartition())
	if err != nil {
		return err
	}
	end, err := b.leaderMark(ctx, at.partition)
	if err != nil {
		return err
	}
	p.LogStartOffset, p.HighWatermark = at.partition.LogStart, end
	p.Lag = lag(p.GetCommittedOffset(), at.partition.LogStart, end)
	return nil
}
