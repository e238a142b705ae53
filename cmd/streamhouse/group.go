package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// These are what -o json prints: their names do not change.
type (
	groupListJSON struct {
		Group   string `json:"group"`
		State   string `json:"state"`
		Members int    `json:"members"`
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

func (a *app) groupCommand() *cobra.Command {
	return group("group", "Show and change consumer groups",
		`Show and change consumer groups: their members, what these read, how far they are, and what
is left to read (lag).`,
		`  streamhouse consume events --group billing --follow   # a member
  streamhouse group describe billing`,
		a.groupList(), a.groupDescribe(), a.groupReset(), a.groupDelete())
}

func (a *app) groupList() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all consumer groups",
		Long: `List all consumer groups. A group is "stable", "rebalancing" while members give up or take
partitions, or "empty" where it has no members and only committed offsets.`,
		Example: `  streamhouse group list
  streamhouse group list -o value                       # names alone`,
		Args: exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				groups, err := admin.ListGroups(ctx)
				if err != nil {
					return err
				}
				list, names := make([]groupListJSON, 0), []string(nil)
				rows := a.rows("GROUP", "STATE", "MEMBERS", "SHARD")
				for _, g := range groups {
					j := groupListJSON{Group: g.Name, State: string(g.State), Members: g.Members, Shard: g.Shard}
					list, names = append(list, j), append(names, j.Group)
					rows.Add(j.Group, a.groupStateText(j.State), j.Members, j.Shard)
				}
				return output.Write(a.stdout, c.format, list, rows, names)
			})
		}),
	}
	return c.call(cmd)
}

func (a *app) groupDescribe() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "describe GROUP",
		Short: "Show a group's members, assignments, offsets and lag",
		Long: `Show a group's members with the partitions that they read, and for each partition of the
topics that the group reads what is committed, where it ends, and how many records are
between the two.`,
		Example: `  streamhouse group describe billing
  streamhouse group describe billing -o json | jq .lag`,
		Args: exactly("GROUP"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				described, err := admin.DescribeGroup(ctx, args[0])
				if err != nil {
					return err
				}
				g := newGroupJSON(described)
				if c.format == output.Table {
					return a.writeGroup(g)
				}
				return output.Write(a.stdout, c.format, g, nil, []string{g.Group})
			})
		}),
	}
	return c.call(cmd)
}

func newGroupJSON(g client.Group) groupJSON {
	j := groupJSON{
		Group: g.Name, State: string(g.State), Epoch: g.Epoch, Shard: g.Shard, Coordinator: g.Coordinator, Lag: g.Lag(),
		Members: make([]groupMemberJSON, 0, len(g.Members)), Partitions: make([]groupPartitionJSON, 0, len(g.Partitions)),
	}
	for _, m := range g.Members {
		j.Members = append(j.Members, groupMemberJSON{
			MemberID: m.ID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host, Epoch: m.Epoch, Away: m.Away, Topics: m.Topics,
			Assigned: byTopic(m.Assigned), Revoking: byTopic(m.Revoking),
		})
	}
	for _, p := range g.Partitions {
		pj := groupPartitionJSON{
			Topic: p.Topic, Partition: p.Partition, LogStart: p.LogStartOffset, HighWatermark: p.HighWatermark, Lag: p.Lag, MemberID: p.MemberID,
		}
		if p.Committed != nil {
			pj.Committed, pj.Metadata = &p.Committed.Offset, p.Committed.Metadata
		}
		j.Partitions = append(j.Partitions, pj)
	}
	return j
}

func byTopic(list []client.TopicPartition) map[string][]int32 {
	m := make(map[string][]int32)
	for _, tp := range list {
		m[tp.Topic] = append(m[tp.Topic], tp.Partition)
	}
	return m
}

// groupStateText colours a state.
func (a *app) groupStateText(state string) string {
	switch client.GroupState(state) {
	case client.GroupStable:
		return a.style.Good(state)
	case client.GroupRebalancing:
		return a.style.Warn(state)
	default:
		return state
	}
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
func numberRanges[T int32 | uint32](numbers []T) string {
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
	members := a.rows("MEMBER", "INSTANCE", "CLIENT", "HOST", "EPOCH", "ASSIGNED", "GIVING UP")
	for _, m := range g.Members {
		instance := m.InstanceID
		if m.Away {
			instance += " (away)"
		}
		members.Add(m.MemberID, instance, cell([]byte(m.ClientID)), m.Host, m.Epoch, partitionsText(m.Assigned), partitionsText(m.Revoking))
	}
	partitions := a.rows("TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER")
	for _, p := range g.Partitions {
		partitions.Add(p.Topic, p.Partition, offsetText(p.Committed), p.HighWatermark, p.Lag, p.MemberID)
	}
	_, err := fmt.Fprintf(a.stdout, "Group %s is %s in epoch %d, lag %d, coordinated by %s (shard %d)\n\n", g.Group, a.groupStateText(g.State), g.Epoch, g.Lag, a.leaderText(g.Coordinator), g.Shard)
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
	var c connection
	cmd := &cobra.Command{
		Use:   "delete GROUP",
		Short: "Delete a group without members, with its committed offsets",
		Long: `Delete a group with its committed offsets. It must have no members: stop its consumers
first. Who consumes with the group again begins at the beginning.`,
		Example: `  streamhouse group delete billing`,
		Args:    exactly("GROUP"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				if err := admin.DeleteGroup(ctx, args[0]); err != nil {
					return err
				}
				rows := a.rows("DELETED")
				rows.Add(args[0])
				return output.Write(a.stdout, c.format, map[string]string{"deleted": args[0]}, rows, []string{args[0]})
			})
		}),
	}
	return c.call(cmd)
}

func (a *app) groupReset() *cobra.Command {
	var (
		c         connection
		topic, to string
		partition int32
		execute   bool
	)
	cmd := &cobra.Command{
		Use:   "reset GROUP --topic TOPIC --to POSITION",
		Short: "Move a group's committed offsets of a topic; shows the plan, and acts with --execute",
		Long: `Move a group's committed offsets of a topic, in all of its partitions or in one.

It shows what would change, and changes it only with --execute. The group must have
no members: stop its consumers first.`,
		Example: `  streamhouse group reset billing --topic events --to beginning
  streamhouse group reset billing --topic events --to 2026-01-31T12:00:00Z --execute
  streamhouse group reset billing --topic events --partition 3 --to 1200 --execute`,
		Args: exactly("GROUP"),
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if topic == "" || to == "" {
				return usagef("--topic and --to are required")
			}
			pos, err := parsePosition("--to", to)
			if err != nil {
				return err
			}
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				plan, err := planReset(ctx, admin, args[0], topic, pos)
				if err != nil {
					return err
				}
				if cmd.Flags().Changed("partition") {
					if err := plan.only(partition); err != nil {
						return err
					}
				}
				if execute {
					if err := runReset(ctx, admin, plan); err != nil {
						return err
					}
					plan.Executed = true
				}
				return a.writeReset(c.format, plan)
			})
		}),
	}
	cmd.Flags().StringVar(&topic, "topic", "", "topic whose offsets are moved")
	cmd.Flags().Int32Var(&partition, "partition", 0, "move this partition alone (default: all)")
	cmd.Flags().StringVar(&to, "to", "", "beginning, end, an OFFSET, or a time such as 2026-01-31T12:00:00Z")
	cmd.Flags().BoolVar(&execute, "execute", false, "do it")
	return c.call(cmd)
}

// planReset says where each partition's offset would go: an offset that is outside of the log goes to its nearer end.
func planReset(ctx context.Context, admin *client.Admin, name, topic string, to position) (*groupResetJSON, error) {
	starts, err := listOffsets(ctx, admin, topic, client.LogStart)
	if err != nil {
		return nil, err
	}
	ends, err := listOffsets(ctx, admin, topic, client.LogEnd)
	if err != nil {
		return nil, err
	}
	committed, err := admin.CommittedOffsets(ctx, name, topic)
	if err != nil {
		return nil, err
	}
	targets := make(map[int32]int64)
	if to.offset == nil {
		if targets, err = listOffsets(ctx, admin, topic, to.at); err != nil {
			return nil, err
		}
	}
	plan := &groupResetJSON{Group: name, Topic: topic, Partitions: make([]groupMovedJSON, 0, len(ends))}
	for _, partition := range slices.Sorted(maps.Keys(ends)) {
		target := targets[partition]
		if to.offset != nil {
			target = *to.offset
		}
		moved := groupMovedJSON{Partition: partition, To: min(max(target, starts[partition]), ends[partition])}
		if c, ok := committed[partition]; ok {
			moved.From = &c.Offset
		}
		plan.Partitions = append(plan.Partitions, moved)
	}
	return plan, nil
}

// only leaves one partition in the plan.
func (p *groupResetJSON) only(partition int32) error {
	i := slices.IndexFunc(p.Partitions, func(m groupMovedJSON) bool { return m.Partition == partition })
	if i < 0 {
		return noPartition(p.Topic, partition, len(p.Partitions))
	}
	p.Partitions = p.Partitions[i : i+1]
	return nil
}

func runReset(ctx context.Context, admin *client.Admin, plan *groupResetJSON) error {
	offsets := make(map[int32]client.Committed, len(plan.Partitions))
	for _, m := range plan.Partitions {
		offsets[m.Partition] = client.Committed{Offset: m.To}
	}
	return admin.CommitOffsets(ctx, plan.Group, plan.Topic, offsets)
}

func (a *app) writeReset(format output.Format, plan *groupResetJSON) error {
	rows := a.rows("TOPIC", "PARTITION", "FROM", "TO")
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
