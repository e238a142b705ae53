package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// inspectionJSON and what is in it are what -o json prints: the names do not change.
type inspectionJSON struct {
	Object    string        `json:"object"`
	SizeBytes int64         `json:"size_bytes"`
	Version   uint32        `json:"version"`
	ClusterID string        `json:"cluster_id"`
	NodeID    string        `json:"node_id"`
	Shard     uint32        `json:"shard"`
	Created   string        `json:"created"`
	Segments  []segmentJSON `json:"segments"`
}

type segmentJSON struct {
	Topic          string           `json:"topic"`
	TopicUUID      string           `json:"topic_uuid"`
	Partition      int32            `json:"partition"`
	PartitionID    uint64           `json:"partition_id"`
	BaseOffset     int64            `json:"base_offset"`
	EndOffset      int64            `json:"end_offset"`
	Records        int64            `json:"records"`
	Batches        map[string]int64 `json:"batches"`
	PayloadBytes   int64            `json:"payload_bytes"`
	SizeBytes      uint64           `json:"size_bytes"`
	IndexEntries   int              `json:"index_entries"`
	FirstTimestamp string           `json:"first_time"`
	MaxTimestamp   string           `json:"max_time"`
	CRC32C         string           `json:"crc32c"`
	Error          string           `json:"error,omitempty"`
}

func (a *app) segmentCommand() *cobra.Command {
	return group("segment", "Look into the object store",
		`Look into the object store without a cluster. Objects hold the uploaded records of a shard's
partitions.`,
		`  streamhouse segment inspect 'file:///var/lib/streamhouse/objects/01J…/3f/0/01J….seg'`,
		a.segmentInspect())
}

func (a *app) segmentInspect() *cobra.Command {
	var timeout time.Duration
	format := output.Table
	cmd := &cobra.Command{
		Use:   "inspect URL",
		Short: "Show what is in an object, and check every byte of it",
		Long: `Show the segments in an object, and check every byte of it: checksums, offsets, index. The
exit code is 1 where something is damaged.

The URL is that of the object store with the object's name before the "?". An object in S3
is read with the usual AWS credentials.`,
		Example: `  streamhouse segment inspect 's3://logs/prod/01J…/3f/0/01J….seg?region=eu-central-1'
  streamhouse segment inspect file:///var/lib/streamhouse/objects/01J…/3f/0/01J….seg`,
		Args: exactly("URL"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return a.inspect(ctx, args[0], format)
		}),
	}
	cmd.Flags().VarP(&format, "output", "o", "table, json or value")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "give up after this long")
	return cmd
}

func (a *app) inspect(ctx context.Context, rawURL string, f output.Format) error {
	store, name, err := splitObjectURL(rawURL)
	if err != nil {
		return err
	}
	if dir, ok := strings.CutPrefix(store, "file://"); ok {
		if _, err := os.Stat(dir); err != nil { // opening would make it
			return fmt.Errorf("URL: %w", err)
		}
	}
	bucket, err := object.Open(ctx, store)
	if err != nil {
		return err
	}
	attrs, err := bucket.Head(ctx, name)
	if err != nil {
		return err
	}
	in, err := segment.Inspect(ctx, object.Ranges{Getter: bucket}, name, attrs.SizeBytes)
	if in == nil {
		return err
	}
	j := newInspectionJSON(rawURL, in)
	rows := a.rows("TOPIC", "PARTITION", "OFFSETS", "RECORDS", "BATCHES", "PAYLOAD", "SIZE", "NEWEST", "CRC32C", "STATE")
	var values []string
	for _, s := range j.Segments {
		state := a.style.Good("ok")
		if s.Error != "" {
			state = a.style.Bad(s.Error)
		}
		rows.Add(s.Topic, s.Partition, fmt.Sprintf("%d to %d", s.BaseOffset, s.EndOffset-1), s.Records, batchesText(s.Batches),
			output.Bytes(s.PayloadBytes), output.Bytes(int64(s.SizeBytes)), s.MaxTimestamp, s.CRC32C, state)
		values = append(values, fmt.Sprintf("%s/%d", s.Topic, s.Partition))
	}
	if f == output.Table {
		if _, err := fmt.Fprintf(a.stdout, "Object %s, %s, format %d\nwritten %s by node %s of cluster %s for shard %d\n\n", name, output.Bytes(j.SizeBytes), j.Version, j.Created, j.NodeID, j.ClusterID, j.Shard); err != nil {
			return err
		}
	}
	return errors.Join(err, output.Write(a.stdout, f, j, rows, values))
}

func newInspectionJSON(rawURL string, in *segment.Inspection) inspectionJSON {
	j := inspectionJSON{
		Object: rawURL, SizeBytes: in.SizeBytes, Version: in.Version, ClusterID: in.Source.ClusterID, NodeID: in.Source.NodeID,
		Shard: in.Source.Shard, Created: formatTime(time.UnixMilli(in.Source.CreatedMs)), Segments: []segmentJSON{},
	}
	for _, s := range in.Segments {
		sj := segmentJSON{
			Topic: s.Partition.Topic, TopicUUID: uuid.UUID(s.Partition.TopicUUID).String(), Partition: s.Partition.Number, PartitionID: s.Partition.ID,
			BaseOffset: s.Entry.GetBaseOffset(), EndOffset: s.Entry.GetEndOffset(), Records: s.Records, Batches: map[string]int64{},
			PayloadBytes: s.PayloadBytes, SizeBytes: s.Entry.GetSizeBytes(), IndexEntries: s.Spans,
			FirstTimestamp: formatTime(time.UnixMilli(s.FirstTimestampMs)), MaxTimestamp: formatTime(time.UnixMilli(s.Entry.GetMaxTimestampMs())), CRC32C: fmt.Sprintf("%08x", s.CRC32C),
		}
		for c, n := range s.Batches {
			sj.Batches[c.String()] = n
		}
		if s.Err != nil {
			sj.Error = s.Err.Error()
		}
		j.Segments = append(j.Segments, sj)
	}
	return j
}

func batchesText(m map[string]int64) string {
	var parts []string
	for c := record.None; c <= record.Zstd; c++ {
		if n := m[c.String()]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, c))
		}
	}
	return strings.Join(parts, ", ")
}

// splitObjectURL takes the URL of an object apart: the store, and the name in it.
func splitObjectURL(raw string) (store, name string, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", "", usagef("URL: %s", err)
	}
	dir, name := path.Split(u.Path)
	if (u.Scheme != "s3" && u.Scheme != "file") || name == "" {
		return "", "", usagef("URL %q: must be s3://BUCKET/…/NAME?region=… or file:///…/NAME", raw)
	}
	u.Path, u.RawPath = strings.TrimSuffix(dir, "/"), ""
	return u.String(), name, nil
}
