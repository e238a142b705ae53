package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
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

func newTopicJSON(name string, id []byte, createdMs int64, config map[string]string) topicJSON {
	t := topicJSON{Name: name, Created: formatTime(createdMs), Config: config}
	if u, err := uuid.FromBytes(id); err == nil {
		t.UUID = u.String()
	}
	if t.Config == nil {
		t.Config = map[string]string{}
	}
	return t
}

func (t topicJSON) configText() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(t.Config)) {
		parts = append(parts, k+"="+t.Config[k])
	}
	return strings.Join(parts, ",")
}

func formatTime(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

func (a *app) topicCommand() *cobra.Command {
	return group("topic", "Create, show and change topics",
		a.topicCreate(), a.topicList(), a.topicDescribe(), a.topicAlter(), a.topicDelete())
}

// topics calls the service with one address after the other.
func topics[T any](ctx context.Context, p *remote.Pool, s remote.Safety, fn func(context.Context, streamhousev1.StreamHouseServiceClient) (T, error)) (T, error) {
	return remote.Call(ctx, p, s, func(ctx context.Context, cc grpc.ClientConnInterface) (T, error) {
		return fn(ctx, streamhousev1.NewStreamHouseServiceClient(cc))
	})
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
			return nil, fmt.Errorf("--config %q: must be KEY=VALUE", p)
		}
		m[k] = v
	}
	return m, nil
}

func (a *app) topicCreate() *cobra.Command {
	var (
		c          client
		partitions int32
		configs    []string
	)
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Create a topic",
		Example: "  streamhouse topic create events --partitions 12 --config retention.ms=86400000",
		Args:    exactly("NAME"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			config, err := parseConfigs(configs)
			if err != nil {
				return err
			}
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				resp, err := topics(ctx, p, remote.Once, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.CreateTopicResponse, error) {
					return s.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: args[0], Partitions: partitions, Config: config})
				})
				if err != nil {
					return err
				}
				return a.writeTopic(c.format, resp.GetTopic(), nil, false)
			})
		}),
	}
	cmd.Flags().Int32Var(&partitions, "partitions", 1, "number of partitions, 1 to 100,000")
	cmd.Flags().StringArrayVar(&configs, "config", nil, "config as `KEY=VALUE`: retention.ms, retention.bytes or max.message.bytes; may be repeated")
	return c.call(cmd)
}

func (a *app) topicList() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all topics",
		Args:  exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				resp, err := topics(ctx, p, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.ListTopicsResponse, error) {
					return s.ListTopics(ctx, &streamhousev1.ListTopicsRequest{})
				})
				if err != nil {
					return err
				}
				list, names := make([]topicJSON, 0), []string(nil)
				rows := &output.Rows{Titles: []string{"NAME", "PARTITIONS", "CREATED", "CONFIG"}}
				for _, t := range resp.GetTopics() {
					j := newTopicJSON(t.GetName(), t.GetUuid(), t.GetCreatedMs(), t.GetConfig())
					j.Partitions = int(t.GetPartitions())
					list, names = append(list, j), append(names, j.Name)
					rows.Add(j.Name, j.Partitions, j.Created, j.configText())
				}
				return output.Write(a.stdout, c.format, list, rows, names)
			})
		}),
	}
	return c.call(cmd)
}

func getTopic(ctx context.Context, p *remote.Pool, name string) (*streamhousev1.Topic, error) {
	resp, err := topics(ctx, p, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.GetTopicResponse, error) {
		return s.GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: name})
	})
	return resp.GetTopic(), err
}

func (a *app) topicDescribe() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "describe NAME",
		Short: "Show a topic and its partitions",
		Args:  exactly("NAME"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				t, err := getTopic(ctx, p, args[0])
				if err != nil {
					return err
				}
				ends, err := listOffsets(ctx, p, &streamhousev1.ListOffsetsRequest{Topic: args[0], Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true}})
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
func (a *app) writeTopic(f output.Format, t *streamhousev1.Topic, ends map[int32]int64, details bool) error {
	j := newTopicJSON(t.GetName(), t.GetUuid(), t.GetCreatedMs(), t.GetConfig())
	j.Partitions = len(t.GetPartitions())
	if !details {
		rows := &output.Rows{Titles: []string{"NAME", "PARTITIONS", "CREATED", "CONFIG"}}
		rows.Add(j.Name, j.Partitions, j.Created, j.configText())
		return output.Write(a.stdout, f, j, rows, []string{j.Name})
	}
	rows := &output.Rows{Titles: []string{"PARTITION", "SHARD", "LEADER", "REPLICAS", "LOG START", "HIGH WATERMARK", "UPLOADED END", "SEGMENTS", "SEGMENT BYTES"}}
	for _, p := range t.GetPartitions() {
		pj := partitionJSON{
			Partition: p.GetPartition(), ID: p.GetId(), Shard: p.GetShard(), Leader: p.GetLeader(), Replicas: append([]string{}, p.GetReplicas()...),
			LogStartOffset: p.GetLogStartOffset(), UploadedEndOffset: p.GetUploadedEndOffset(),
			Segments: p.GetSegments(), SegmentBytes: p.GetSegmentBytes(),
		}
		end := ""
		if n, ok := ends[pj.Partition]; ok {
			pj.HighWatermark, end = &n, fmt.Sprint(n)
		}
		j.Details = append(j.Details, pj)
		rows.Add(pj.Partition, pj.Shard, pj.Leader, strings.Join(pj.Replicas, ","), pj.LogStartOffset, end, pj.UploadedEndOffset, pj.Segments, output.Bytes(pj.SegmentBytes))
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
		c       client
		configs []string
		unset   []string
		parts   int32
	)
	cmd := &cobra.Command{
		Use:   "alter NAME",
		Short: "Change a topic's configs or add partitions",
		Args:  exactly("NAME"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			config, err := parseConfigs(configs)
			if err != nil {
				return err
			}
			if len(config) == 0 && len(unset) == 0 && parts == 0 {
				return fmt.Errorf("nothing to change: give --config, --unset-config or --partitions")
			}
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				resp, err := topics(ctx, p, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.AlterTopicResponse, error) {
					return s.AlterTopic(ctx, &streamhousev1.AlterTopicRequest{Name: args[0], SetConfig: config, UnsetConfig: unset, Partitions: parts})
				})
				if err != nil {
					return err
				}
				return a.writeTopic(c.format, resp.GetTopic(), nil, false)
			})
		}),
	}
	cmd.Flags().StringArrayVar(&configs, "config", nil, "config to set, `KEY=VALUE`; may be repeated")
	cmd.Flags().StringArrayVar(&unset, "unset-config", nil, "`KEY` of a config to return to its default; may be repeated")
	cmd.Flags().Int32Var(&parts, "partitions", 0, "new number of partitions; it can only grow, and keys move to other partitions")
	return c.call(cmd)
}

func (a *app) topicDelete() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a topic with all its records",
		Args:  exactly("NAME"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return c.with(ctx, a, func(ctx context.Context, p *remote.Pool) error {
				_, err := topics(ctx, p, remote.Once, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.DeleteTopicResponse, error) {
					return s.DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: args[0]})
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

// listOffsets returns offsets by partition.
func listOffsets(ctx context.Context, p *remote.Pool, req *streamhousev1.ListOffsetsRequest) (map[int32]int64, error) {
	resp, err := topics(ctx, p, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.ListOffsetsResponse, error) {
		return s.ListOffsets(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	m := make(map[int32]int64)
	for _, o := range resp.GetOffsets() {
		m[o.GetPartition()] = o.GetOffset()
	}
	return m, nil
}
