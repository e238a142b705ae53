package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

// These are what -o json prints: their names do not change.
type (
	groupListJSON struct {
		Group   string `json:"group"`
		State   string `json:"state"`
		Members int32  `json:"members"`
		Shard   uint32 `json:"shard"`
	}
	groupJSON struct {
		Group       string               `json:"group"`
		State       string               `json:"state"`
		Epoch       int32                `json:"epoch"`
		Shard       uint32               `json:"shard"`
		Coordinator string               `json:"coordinator"`
		Lag         int64                `json:"lag"`
		Members     []groupMemberJSON    `json:"members"`
		Partitions  []groupPartitionJSON `json:"partitions"`
	}
	groupMemberJSON struct {
		MemberID   string             `json:"member_id"`
		InstanceID string             `json:"instance_id,omitempty"`
		ClientID   string             `json:"client_id"`
		Host       string             `json:"host"`
		Epoch      int32              `json:"epoch"`
		Away       bool               `json:"away"`
		Topics     []string           `json:"topics"`
		Assigned   map[string][]int32 `json:"assigned"`
		Revoking   map[string][]int32 `json:"revoking,omitempty"`
	}
	groupPartitionJSON struct {
		Topic         string `json:"topic"`
		Partition     int32  `json:"partition"`
		Committed     *int64 `json:"committed_offset"`
		LogStart      int64  `json:"log_start_offset"`
		HighWatermark int64  `json:"high_watermark"`
		Lag           int64  `json:"lag"`
		MemberID      string `json:"member_id"`
		Metadata      string `json:"metadata,omitempty"`
	}
	groupResetJSON struct {
		Group      string           `json:"group"`
		Topic      string           `json:"topic"`
		Executed   bool             `json:"executed"`
		Partitions []groupMovedJSON `json:"partitions"`
	}
	groupMovedJSON struct {
		Partition int32  `json:"partition"`
		From      *int64 `json:"from"`
		To        int64  `json:"to"`
	}
)

func groupStateName(s streamhousev1.GroupState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "GROUP_STATE_"))
}

func (a *app) groupCommand() *cobra.Command {
	return group("group", "Show and change consumer groups", a.groupList(), a.groupDescribe(), a.groupReset(), a.groupDelete())
}

func (a *app) groupList() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all consumer groups",
		Args:  exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				resp, err := topics(ctx, p, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.ListGroupsResponse, error) {
					return s.ListGroups(ctx, &streamhousev1.ListGroupsRequest{})
				})
				if err != nil {
					return err
				}
				list, names := make([]groupListJSON, 0), []string(nil)
				rows := &output.Rows{Titles: []string{"GROUP", "STATE", "MEMBERS", "SHARD"}}
				for _, g := range resp.GetGroups() {
					j := groupListJSON{Group: g.GetGroup(), State: groupStateName(g.GetState()), Members: g.GetMembers(), Shard: g.GetShard()}
					list, names = append(list, j), append(names, j.Group)
					rows.Add(j.Group, j.State, j.Members, j.Shard)
				}
				return output.Write(a.stdout, c.format, list, rows, names)
			})
		}),
	}
	return c.call(cmd)
}

func describeGroup(ctx context.Context, p *remote.Pool, name string) (*streamhousev1.DescribeGroupResponse, error) {
	return topics(ctx, p, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.DescribeGroupResponse, error) {
		return s.DescribeGroup(ctx, &streamhousev1.DescribeGroupRequest{Group: name})
	})
}

func (a *app) groupDescribe() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:     "describe GROUP",
		Short:   "Show a group's members, assignments, offsets and lag",
		Example: "  streamhouse group describe billing",
		Args:    exactly("GROUP"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				resp, err := describeGroup(ctx, p, args[0])
				if err != nil {
					return err
				}
				g := newGroupJSON(resp)
				if c.format == output.Table {
					return a.writeGroup(g)
				}
				return output.Write(a.stdout, c.format, g, nil, []string{g.Group})
			})
		}),
	}
	return c.call(cmd)
}

func newGroupJSON(r *streamhousev1.DescribeGroupResponse) groupJSON {
	g := groupJSON{
		Group: r.GetGroup(), State: groupStateName(r.GetState()), Epoch: r.GetEpoch(), Shard: r.GetShard(), Coordinator: r.GetCoordinator(),
		Members: make([]groupMemberJSON, 0), Partitions: make([]groupPartitionJSON, 0),
	}
	for _, m := range r.GetMembers() {
		g.Members = append(g.Members, groupMemberJSON{
			MemberID: m.GetMemberId(), InstanceID: m.GetInstanceId(), ClientID: m.GetClientId(), Host: m.GetClientHost(),
			Epoch: m.GetMemberEpoch(), Away: m.GetAway(), Topics: m.GetTopics(),
			Assigned: byTopic(m.GetAssigned()), Revoking: byTopic(m.GetRevoking()),
		})
	}
	for _, p := range r.GetPartitions() {
		j := groupPartitionJSON{
			Topic: p.GetTopic(), Partition: p.GetPartition(), LogStart: p.GetLogStartOffset(), HighWatermark: p.GetHighWatermark(),
			Lag: p.GetLag(), MemberID: p.GetMemberId(), Metadata: p.GetMetadata(),
		}
		if o := p.GetCommittedOffset(); o >= 0 {
			j.Committed = &o
		}
		g.Lag += j.Lag
		g.Partitions = append(g.Partitions, j)
	}
	return g
}

func byTopic(list []*streamhousev1.TopicPartitions) map[string][]int32 {
	m := make(map[string][]int32, len(list))
	for _, tp := range list {
		m[tp.GetTopic()] = tp.GetPartitions()
	}
	return m
}

// partitionsText is such as "events 0-3,7".
func partitionsText(m map[string][]int32) string {
	var parts []string
	for _, topic := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, topic+" "+numberRanges(m[topic]))
	}
	return strings.Join(parts, ", ")
}

// numberRanges writes ordered numbers as 0-3,7.
func numberRanges(numbers []int32) string {
	var parts []string
	for i := 0; i < len(numbers); {
		k := i
		for k+1 < len(numbers) && numbers[k+1] == numbers[k]+1 {
			k++
		}
		text := fmt.Sprint(numbers[i])
		if k > i {
			text += fmt.Sprintf("-%d", numbers[k])
		}
		parts = append(parts, text)
		i = k + 1
	}
	return strings.Join(parts, ",")
}

func offsetText(o *int64) string {
	if o == nil {
		return "-"
	}
	return fmt.Sprint(*o)
}

func (a *app) writeGroup(g groupJSON) error {
	members := &output.Rows{Titles: []string{"MEMBER", "INSTANCE", "CLIENT", "HOST", "EPOCH", "ASSIGNED", "GIVING UP"}}
	for _, m := range g.Members {
		instance := m.InstanceID
		if m.Away {
			instance += " (away)"
		}
		members.Add(m.MemberID, instance, m.ClientID, m.Host, m.Epoch, partitionsText(m.Assigned), partitionsText(m.Revoking))
	}
	partitions := &output.Rows{Titles: []string{"TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"}}
	for _, p := range g.Partitions {
		partitions.Add(p.Topic, p.Partition, offsetText(p.Committed), p.HighWatermark, p.Lag, p.MemberID)
	}
	_, err := fmt.Fprintf(a.stdout, "Group %s is %s in epoch %d, lag %d, coordinated by %s (shard %d)\n\n", g.Group, g.State, g.Epoch, g.Lag, g.Coordinator, g.Shard)
	if err != nil {
		return err
	}
	if _, err := members.WriteTo(a.stdout); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.stdout); err != nil {
		return err
	}
	_, err = partitions.WriteTo(a.stdout)
	return err
}

func (a *app) groupDelete() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "delete GROUP",
		Short: "Delete a group without members, with its committed offsets",
		Args:  exactly("GROUP"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				_, err := topics(ctx, p, remote.Once, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.DeleteGroupResponse, error) {
					return s.DeleteGroup(ctx, &streamhousev1.DeleteGroupRequest{Group: args[0]})
				})
				if err != nil {
					return err
				}
				rows := &output.Rows{Titles: []string{"DELETED"}}
				rows.Add(args[0])
				return output.Write(a.stdout, c.format, map[string]string{"deleted": args[0]}, rows, []string{args[0]})
			})
		}),
	}
	return c.call(cmd)
}

func (a *app) groupReset() *cobra.Command {
	var (
		c         client
		topic, to string
		execute   bool
	)
	cmd := &cobra.Command{
		Use:   "reset GROUP --topic TOPIC --to POSITION",
		Short: "Move a group's committed offsets of a topic; shows the plan, and acts with --execute",
		Long: `Move a group's committed offsets of a topic.

It shows what would change, and changes it only with --execute. The group must have
no members: stop its consumers first.`,
		Example: `  streamhouse group reset billing --topic events --to beginning
  streamhouse group reset billing --topic events --to 2026-01-31T12:00:00Z --execute`,
		Args: exactly("GROUP"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			if topic == "" || to == "" {
				return errors.New("--topic and --to are required")
			}
			pos, err := parsePosition("--to", to)
			if err != nil {
				return err
			}
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				plan, err := planReset(ctx, p, args[0], topic, pos)
				if err != nil {
					return err
				}
				if execute {
					if err := runReset(ctx, p, plan); err != nil {
						return err
					}
					plan.Executed = true
				}
				return a.writeReset(c.format, plan)
			})
		}),
	}
	cmd.Flags().StringVar(&topic, "topic", "", "topic whose offsets are moved")
	cmd.Flags().StringVar(&to, "to", "", "beginning, end, an OFFSET, or a time such as 2026-01-31T12:00:00Z")
	cmd.Flags().BoolVar(&execute, "execute", false, "do it")
	return c.call(cmd)
}

// planReset says where each partition's offset would go: an offset that is outside of the log goes to its nearer end.
func planReset(ctx context.Context, p *remote.Pool, name, topic string, to position) (*groupResetJSON, error) {
	starts, err := listOffsets(ctx, p, &streamhousev1.ListOffsetsRequest{Topic: topic, Position: &streamhousev1.ListOffsetsRequest_Earliest{Earliest: true}})
	if err != nil {
		return nil, err
	}
	ends, err := listOffsets(ctx, p, &streamhousev1.ListOffsetsRequest{Topic: topic, Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true}})
	if err != nil {
		return nil, err
	}
	targets, err := to.offsets(ctx, p, topic, starts, ends)
	if err != nil {
		return nil, err
	}
	committed, err := topics(ctx, p, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.GetOffsetResponse, error) {
		return s.GetOffset(ctx, &streamhousev1.GetOffsetRequest{Group: name, Topic: topic})
	})
	if err != nil {
		return nil, err
	}
	from := make(map[int32]*int64)
	for _, o := range committed.GetOffsets() {
		from[o.GetPartition()] = &o.Offset
	}
	plan := &groupResetJSON{Group: name, Topic: topic, Partitions: make([]groupMovedJSON, 0, len(targets))}
	for _, partition := range slices.Sorted(maps.Keys(targets)) {
		target := min(max(targets[partition], starts[partition]), ends[partition])
		plan.Partitions = append(plan.Partitions, groupMovedJSON{Partition: partition, From: from[partition], To: target})
	}
	slices.SortFunc(plan.Partitions, func(x, y groupMovedJSON) int { return cmp.Compare(x.Partition, y.Partition) })
	return plan, nil
}

// offsets returns the position in every partition.
func (pos position) offsets(ctx context.Context, p *remote.Pool, topic string, starts, ends map[int32]int64) (map[int32]int64, error) {
	switch {
	case pos.earliest:
		return starts, nil
	case pos.latest:
		return ends, nil
	case pos.timestampMs != nil:
		return listOffsets(ctx, p, &streamhousev1.ListOffsetsRequest{Topic: topic, Position: &streamhousev1.ListOffsetsRequest_TimestampMs{TimestampMs: *pos.timestampMs}})
	}
	same := make(map[int32]int64, len(ends))
	for partition := range ends {
		same[partition] = *pos.offset
	}
	return same, nil
}

func runReset(ctx context.Context, p *remote.Pool, plan *groupResetJSON) error {
	req := &streamhousev1.CommitOffsetRequest{Group: plan.Group, Topic: plan.Topic}
	for _, m := range plan.Partitions {
		req.Offsets = append(req.Offsets, &streamhousev1.CommittedOffset{Partition: m.Partition, Offset: m.To})
	}
	_, err := topics(ctx, p, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.CommitOffsetResponse, error) {
		return s.CommitOffset(ctx, req)
	})
	return err
}

func (a *app) writeReset(format output.Format, plan *groupResetJSON) error {
	rows := &output.Rows{Titles: []string{"TOPIC", "PARTITION", "FROM", "TO"}}
	for _, m := range plan.Partitions {
		rows.Add(plan.Topic, m.Partition, offsetText(m.From), m.To)
	}
	if err := output.Write(a.stdout, format, plan, rows, []string{plan.Group}); err != nil {
		return err
	}
	if !plan.Executed {
		a.say("nothing was changed: add --execute to do it")
	}
	return nil
}
