package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/cluster/replica"
)

// Config says what a shard's replica is and how it behaves. All fields are required unless said otherwise.
type Config struct {
	// Shard is the shard's number, from 0.
	Shard uint32
	// ClusterID and NodeID are written into objects.
	ClusterID, NodeID string
	// Replica opens the Raft replica; its FSM is set by Open.
	Replica replica.Config
	// Metadata is the metadata group.
	Metadata Metadata
	// Uploads is the object store.
	Uploads Uploads
	// Groups keeps committed offsets in the object store. May be nil: then they are not kept there.
	Groups Groups
	// Budget bounds the local logs of the node.
	Budget *Budget
	// Metrics are shared by the shards of the node.
	Metrics *Metrics
	// UploadBytes and UploadInterval say when the leader uploads: at so many bytes, or when a record waits so long.
	UploadBytes    int64
	UploadInterval time.Duration
	// CheckpointBytes is the size of the local log from which on a snapshot is taken and the log is cut.
	CheckpointBytes int64
	// TailBytes bounds the memory for the newest batches.
	TailBytes int64
	// GroupOffsetsRetention is for how long a consumer group without members is kept. 0: for ever.
	GroupOffsetsRetention time.Duration
	// Logger may be nil.
	Logger *slog.Logger
	// TracerProvider, where it is not nil, gets the spans of appends and uploads.
	TracerProvider trace.TracerProvider
}

// Validate names the first field that is missing or out of its bounds.
func (c *Config) Validate() error {
	switch {
	case c.ClusterID == "" || c.NodeID == "":
		return errors.New("shard: ClusterID and NodeID are required")
	case c.Metadata == nil || c.Uploads == nil || c.Budget == nil || c.Metrics == nil:
		return errors.New("shard: Metadata, Uploads, Budget and Metrics are required")
	case c.UploadBytes <= 0 || c.UploadInterval <= 0:
		return fmt.Errorf("shard: UploadBytes %d and UploadInterval %s must be positive", c.UploadBytes, c.UploadInterval)
	case c.CheckpointBytes <= 0 || c.TailBytes < 0:
		return fmt.Errorf("shard: CheckpointBytes %d must be positive and TailBytes %d not negative", c.CheckpointBytes, c.TailBytes)
	}
	return nil
}

// segmentBytes is the size of the log's files. The begin of a log is cut off in whole files, so they are small beside what is
// to stay; but raft-wal keeps all of them open, and writes their names anew with each new one, so they are not many.
func segmentBytes(retainBytes, checkpointBytes int64) int {
	return int(min(max(retainBytes/4, checkpointBytes/16, 64<<10), 16<<20))
}
