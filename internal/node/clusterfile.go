package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/streamhouse/streamhouse/storage/object"
)

const (
	clusterFileName     = "cluster.json"
	clusterFileVersion  = 1
	maxClusterFileBytes = 64 << 10
	clusterFileTimeout  = 20 * time.Second
)

// clusterFile is cluster.json in the object store: whose store this is. It is
// created once, and that decides who begins a cluster.
type clusterFile struct {
	Version     int    `json:"version"`
	ClusterID   string `json:"cluster_id"`
	ClusterName string `json:"cluster_name"`
	// Founder and FounderIncarnation name the node that created the file.
	Founder            string `json:"founder"`
	FounderIncarnation string `json:"founder_incarnation"`
	Shards             int    `json:"shards"`
	CreatedMs          int64  `json:"created_ms"`
}

// errWrongStore means that the object store belongs to another cluster, or to none.
var errWrongStore = errors.New("wrong object store")

// readClusterFile returns cluster.json; the error is object.ErrNotFound when there is none.
func readClusterFile(ctx context.Context, b object.Bucket) (*clusterFile, error) {
	ctx, cancel := context.WithTimeout(ctx, clusterFileTimeout)
	defer cancel()
	rc, err := b.Get(ctx, clusterFileName, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", clusterFileName, err)
	}
	data, err := io.ReadAll(io.LimitReader(rc, maxClusterFileBytes))
	if err = errors.Join(err, rc.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", clusterFileName, err)
	}
	var f clusterFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("%w: %s does not decode: %w", errWrongStore, clusterFileName, err)
	}
	if f.Version > clusterFileVersion {
		return nil, fmt.Errorf("%w: %s has version %d, this binary knows %d", errWrongStore, clusterFileName, f.Version, clusterFileVersion)
	}
	if f.ClusterID == "" {
		return nil, fmt.Errorf("%w: %s names no cluster", errWrongStore, clusterFileName)
	}
	return &f, nil
}

// createClusterFile creates cluster.json. When it is there already, the error is
// object.ErrExists, unless the one there is this very file: an earlier try of
// ours whose answer got lost.
func createClusterFile(ctx context.Context, b object.Bucket, f *clusterFile) error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", clusterFileName, err)
	}
	pctx, cancel := context.WithTimeout(ctx, clusterFileTimeout)
	defer cancel()
	err = b.Put(pctx, clusterFileName, bytes.NewReader(data), int64(len(data)))
	if err == nil {
		return nil
	}
	there, rerr := readClusterFile(ctx, b)
	if rerr != nil {
		return fmt.Errorf("create %s: %w", clusterFileName, err)
	}
	if there.ClusterID == f.ClusterID {
		return nil
	}
	return fmt.Errorf("create %s: %w", clusterFileName, object.ErrExists)
}

// checkStore returns nil when the object store is the cluster's. An error that
// is errWrongStore is for good; any other may pass.
func checkStore(ctx context.Context, b object.Bucket, url, clusterID string) error {
	f, err := readClusterFile(ctx, b)
	switch {
	case errors.Is(err, object.ErrNotFound):
		return fmt.Errorf("--object-store %s: %w: it has no %s of cluster %s: give the URL that the cluster uses",
			url, errWrongStore, clusterFileName, clusterID)
	case err != nil:
		return fmt.Errorf("--object-store %s: %w", url, err)
	case f.ClusterID != clusterID:
		return fmt.Errorf("--object-store %s: %w: it belongs to cluster %s (%s), this node to %s: give the URL that the cluster uses",
			url, errWrongStore, f.ClusterID, f.ClusterName, clusterID)
	}
	return nil
}
