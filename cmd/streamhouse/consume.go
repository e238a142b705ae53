package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// maxFollowed bounds the calls that wait at the ends of partitions.
const maxFollowed = 1024

type consumeFlags struct {
	connection

	group, from string
	partition   int32
	limit       int64
	follow      bool
}

func (a *app) consumeCommand() *cobra.Command {
	var f consumeFlags
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Read records of a topic",
		Long: `Read records of a topic, from all partitions or one.

Without --follow it ends where the topic ended when it began. With -o value (the
default) each record's value is written as a line, and nothing else.

With --group it is a member of the consumer group: several copies share the
partitions, and each goes on behind what the group has committed. What is written to
stdout is committed. With --group and --partition it reads that partition alone,
while the group has no members.`,
		Example: `  streamhouse consume events
  streamhouse consume events --partition 3 --from 1000 --max 10 -o json
  streamhouse consume events --from 2026-01-31T12:00:00Z -o json
  streamhouse consume events --group billing --follow`,
		Args: exactly("TOPIC"),
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			j, err := f.job(cmd, args[0])
			if err != nil {
				return err
			}
			return a.consume(ctx, j)
		}),
	}
	f.flags(cmd, output.Value, time.Minute, "give up when no node answers for this long")
	fl := cmd.Flags()
	fl.StringVar(&f.group, "group", "", "consumer group to be a member of")
	fl.Int32Var(&f.partition, "partition", 0, "read this partition alone (default: all)")
	fl.StringVar(&f.from, "from", "", "beginning, end, an `OFFSET`, or a time such as 2026-01-31T12:00:00Z (default: what the group has committed, else beginning)")
	fl.Int64Var(&f.limit, "max", 0, "end after so many records (default: no limit)")
	fl.BoolVar(&f.follow, "follow", false, "wait for more at the end, until interrupted")
	return cmd
}

// consumeJob is a checked command line.
type consumeJob struct {
	conn   *connection
	topic  string
	group  string
	fixed  *int32
	from   position
	limit  int64
	follow bool
}

func (f *consumeFlags) job(cmd *cobra.Command, topic string) (*consumeJob, error) {
	from, err := parsePosition("--from", f.from)
	if err != nil {
		return nil, err
	}
	j := &consumeJob{conn: &f.connection, topic: topic, group: f.group, from: from, limit: f.limit, follow: f.follow}
	if f.limit < 0 || (f.limit == 0 && cmd.Flags().Changed("max")) {
		return nil, usagef("--max %d: must be 1 or more", f.limit)
	}
	if cmd.Flags().Changed("partition") {
		j.fixed = &f.partition
	}
	return j, nil
}

func (a *app) consume(ctx context.Context, j *consumeJob) error {
	cl, err := j.conn.open(a)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // all calls have returned
	r := &reading{
		job: j, say: a.say, client: cl, admin: client.NewAdmin(cl), sink: newSink(a.stdout, j.conn.format, j.limit),
		pending: make(map[client.TopicPartition]client.Record), heard: time.Now(),
	}
	first, cancel := context.WithTimeout(ctx, j.conn.timeout)
	defer cancel()
	parts, err := j.partitions(first, r.admin)
	if err != nil {
		return err
	}
	if j.group != "" && j.fixed == nil {
		err = r.asMember(ctx, parts)
	} else {
		err = r.alone(ctx, parts)
	}
	if j.follow && ctx.Err() != nil && isCanceled(err) {
		return nil // what was asked for is done
	}
	return err
}

// partitions returns what is to be read.
func (j *consumeJob) partitions(ctx context.Context, admin *client.Admin) ([]int32, error) {
	t, err := admin.DescribeTopic(ctx, j.topic)
	if err != nil {
		return nil, err
	}
	var parts []int32
	for _, p := range t.Partitions {
		if j.fixed == nil || *j.fixed == p.Number {
			parts = append(parts, p.Number)
		}
	}
	switch {
	case len(parts) == 0:
		return nil, noPartition(j.topic, *j.fixed, len(t.Partitions))
	case j.from.offset != nil && len(parts) > 1:
		return nil, fmt.Errorf("--from %d: topic %s has %d partitions, so give --partition, too", *j.from.offset, j.topic, len(parts))
	case j.follow && len(parts) > maxFollowed && j.group == "":
		return nil, fmt.Errorf("--follow: topic %s has %d partitions, of which at most %d can be followed at once: give --partition", j.topic, len(parts), maxFollowed)
	}
	return parts, nil
}

// position is a place in a topic: what a group has committed, an offset, or else at.
type position struct {
	committed bool
	offset    *int64
	at        client.Position
}

// parsePosition reads the value of a flag; "" is what the group has committed.
func parsePosition(flag, s string) (position, error) {
	switch s {
	case "":
		return position{committed: true, at: client.LogStart}, nil
	case "beginning":
		return position{at: client.LogStart}, nil
	case "end":
		return position{at: client.LogEnd}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return position{offset: &n}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return position{at: client.AtTime(t)}, nil
	}
	return position{}, usagef("%s %q: must be beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z", flag, s)
}

// listOffsets returns the offset of a position in partitions of a topic; no partitions are all.
func listOffsets(ctx context.Context, admin *client.Admin, topic string, at client.Position, partitions ...int32) (map[int32]int64, error) {
	offsets, err := admin.ListOffsets(ctx, topic, at, partitions...)
	return offsets, plain(err)
}
