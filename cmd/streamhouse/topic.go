package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// topicJSON and partitionJSON are what -o json prints: their names do not change.
type topicJSON struct {
	Name       string            `json:"name"`
	UUID       string            `json:"uuid"`
	Created    string            `json:"created"`
	Config     map[string]string `json:"config"`
	Partitions int               `json:"partitions"`
	Details    []partitionJSON   `json:"partition_details,omitempty"`
}

type partitionJSON struct {
	Partition         int32    `json:"partition"`
	ID                uint64   `json:"id"`
	Shard             uint32   `json:"shard"`
	Leader            string   `json:"leader"`
	Replicas          []string `json:"replicas"`
	LogStartOffset    int64    `json:"log_start_offset"`
	UploadedEndOffset int64    `json:"uploaded_end_offset"`
	HighWatermark     *int64   `json:"high_watermark,omitempty"`
	Segments          int64    `json:"segments"`
	SegmentBytes      int64    `json:"segment_bytes"`
}

func newTopicJSON(name string, id uuid.UUID, created time.Time, config map[string]string) topicJSON {
	if config == nil {
		config = map[string]string{}
	}
	return topicJSON{Name: name, UUID: id.String(), Created: formatTime(created), Config: config}
}

func (t topicJSON) configText() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(t.Config)) {
		parts = append(parts, k+"="+t.Config[k])
	}
	return strings.Join(parts, ",")
}

func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

func (a *app) topicCommand() *cobra.Command {
	return group("topic", "Create, show and change topics",
		`Create, show and change topics. A topic has partitions, which are spread over the shards of
the cluster; each is a log of records of its own.`,
		`  streamhouse topic create events --partitions 12
  streamhouse topic describe events`,
		a.topicCreate(), a.topicList(), a.topicDescribe(), a.topicAlter(), a.topicDelete())
}

// parseConfigs reads k=v pairs.
func parseConfigs(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	m := make(map[string]string)
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, usagef("--config %q: must be KEY=VALUE", p)
		}
		m[k] = v
	}
	return m, nil
}

func (a *app) topicCreate() *cobra.Command {
	var (
		c          connection
		partitions int32
		configs    []string
	)
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a topic",
		Long: `Create a topic. It is there on all nodes when the command returns.

Configs are retention.ms (how long records are kept, -1 for ever; 7 days by default),
retention.bytes (of each partition, no bound by default), and max.message.bytes (of a
record).`,
		Example: `  streamhouse topic create events --partitions 12
  streamhouse topic create audit --config retention.ms=-1 --config max.message.bytes=65536`,
		Args: exactly("NAME"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			config, err := parseConfigs(configs)
			if err != nil {
				return err
			}
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				t, err := admin.CreateTopic(ctx, args[0], partitions, config)
				if err != nil {
					return err
				}
				return a.writeTopic(c.format, t, nil, false)
			})
		}),
	}
	cmd.Flags().Int32Var(&partitions, "partitions", 1, "number of partitions, 1 to 100,000")
	cmd.Flags().StringArrayVar(&configs, "config", nil, "config as `KEY=VALUE`: retention.ms, retention.bytes or max.message.bytes; may be repeated")
	return c.call(cmd)
}

func (a *app) topicList() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all topics",
		Long:  "List all topics by name, with their partitions, configs, and when they were created.",
		Example: `  streamhouse topic list
  streamhouse topic list -o value                       # names alone`,
		Args: exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				topics, err := admin.ListTopics(ctx)
				if err != nil {
					return err
				}
				list, names := make([]topicJSON, 0), []string(nil)
				rows := a.rows("NAME", "PARTITIONS", "CREATED", "CONFIG")
				for _, t := range topics {
					j := newTopicJSON(t.Name, t.ID, t.Created, t.Config)
					j.Partitions = int(t.Partitions)
					list, names = append(list, j), append(names, j.Name)
					rows.Add(j.Name, j.Partitions, j.Created, j.configText())
				}
				return output.Write(a.stdout, c.format, list, rows, names)
			})
		}),
	}
	return c.call(cmd)
}

func (a *app) topicDescribe() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "describe NAME",
		Short: "Show a topic and its partitions",
		Long: `Show a topic and, for each partition, its shard with leader and replicas, its offsets, and
what of it is in the object store.`,
		Example: `  streamhouse topic describe events
  streamhouse topic describe events -o json | jq '.partition_details[].high_watermark'`,
		Args: exactly("NAME"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				t, err := admin.DescribeTopic(ctx, args[0])
				if err != nil {
					return err
				}
				ends, err := listOffsets(ctx, admin, args[0], client.LogEnd)
				if err != nil {
					a.say("high watermarks are not known: %v", err)
				}
				return a.writeTopic(c.format, t, ends, true)
			})
		}),
	}
	return c.call(cmd)
}

// writeTopic writes a topic; ends has high watermarks, where they are known.
func (a *app) writeTopic(f output.Format, t client.Topic, ends map[int32]int64, details bool) error {
	j := newTopicJSON(t.Name, t.ID, t.Created, t.Config)
	j.Partitions = len(t.Partitions)
	if !details {
		rows := a.rows("NAME", "PARTITIONS", "CREATED", "CONFIG")
		rows.Add(j.Name, j.Partitions, j.Created, j.configText())
		return output.Write(a.stdout, f, j, rows, []string{j.Name})
	}
	rows := a.rows("PARTITION", "SHARD", "LEADER", "REPLICAS", "LOG START", "HIGH WATERMARK", "UPLOADED END", "SEGMENTS", "SEGMENT BYTES")
	for _, p := range t.Partitions {
		pj := partitionJSON{
			Partition: p.Number, ID: p.ID, Shard: p.Shard, Leader: p.Leader, Replicas: append([]string{}, p.Replicas...),
			LogStartOffset: p.LogStartOffset, UploadedEndOffset: p.UploadedEndOffset,
			Segments: p.Segments, SegmentBytes: p.SegmentBytes,
		}
		end := ""
		if n, ok := ends[pj.Partition]; ok {
			pj.HighWatermark, end = &n, fmt.Sprint(n)
		}
		j.Details = append(j.Details, pj)
		rows.Add(pj.Partition, pj.Shard, a.leaderText(pj.Leader), strings.Join(pj.Replicas, ","), pj.LogStartOffset, end, pj.UploadedEndOffset, pj.Segments, output.Bytes(pj.SegmentBytes))
	}
	if f == output.Table {
		if _, err := fmt.Fprintf(a.stdout, "Topic %s, id %s, %d partitions, created %s, config %s\n\n", j.Name, j.UUID, j.Partitions, j.Created, orNone(j.configText())); err != nil {
			return err
		}
	}
	return output.Write(a.stdout, f, j, rows, []string{j.Name})
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (a *app) topicAlter() *cobra.Command {
	var (
		c       connection
		configs []string
		unset   []string
		parts   int32
	)
	cmd := &cobra.Command{
		Use:   "alter NAME",
		Short: "Change a topic's configs or add partitions",
		Long: `Change a topic's configs, or add partitions to it. Partitions can't be taken away, and keys
go to other partitions once there are more.`,
		Example: `  streamhouse topic alter events --config retention.bytes=1000000000
  streamhouse topic alter events --unset-config retention.ms --partitions 24`,
		Args: exactly("NAME"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			config, err := parseConfigs(configs)
			if err != nil {
				return err
			}
			if len(config) == 0 && len(unset) == 0 && parts == 0 {
				return usagef("nothing to change: give --config, --unset-config or --partitions")
			}
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				t, err := admin.AlterTopic(ctx, args[0], client.TopicChange{Set: config, Unset: unset, Partitions: parts})
				if err != nil {
					return err
				}
				return a.writeTopic(c.format, t, nil, false)
			})
		}),
	}
	cmd.Flags().StringArrayVar(&configs, "config", nil, "config to set, `KEY=VALUE`; may be repeated")
	cmd.Flags().StringArrayVar(&unset, "unset-config", nil, "`KEY` of a config to return to its default; may be repeated")
	cmd.Flags().Int32Var(&parts, "partitions", 0, "new number of partitions; it can only grow, and keys move to other partitions")
	return c.call(cmd)
}

func (a *app) topicDelete() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a topic with all its records",
		Long: `Delete a topic with all its records, and with what consumer groups have committed of it.
There is no way back, and no question is asked.`,
		Example: `  streamhouse topic delete events`,
		Args:    exactly("NAME"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				if err := admin.DeleteTopic(ctx, args[0]); err != nil {
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

// topicOrCreate returns the number of a topic's partitions. It creates the topic where it is missing and partitions is
// not 0.
func (a *app) topicOrCreate(ctx context.Context, admin *client.Admin, topic string, partitions int32) (int, error) {
	t, err := admin.DescribeTopic(ctx, topic)
	if !errors.Is(err, client.ErrTopicNotFound) || partitions == 0 {
		return len(t.Partitions), err
	}
	t, err = admin.CreateTopic(ctx, topic, partitions, nil)
	if errors.Is(err, client.ErrTopicExists) { // another one was quicker
		t, err = admin.DescribeTopic(ctx, topic)
	} else if err == nil {
		a.say("topic %s was missing and is created, with %d partitions", topic, partitions)
	}
	return len(t.Partitions), err
}
