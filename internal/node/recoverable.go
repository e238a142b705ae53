package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/streamhouse/streamhouse/cluster/recovery"
	"github.com/streamhouse/streamhouse/storage/object"
)

// RecoverableCluster returns the cluster that an object store belongs to, for a recovery. url is where the nodes will
// reach it.
func RecoverableCluster(ctx context.Context, b object.Bucket, url string) (recovery.Cluster, error) {
	f, err := readClusterFile(ctx, b)
	switch {
	case errors.Is(err, object.ErrNotFound):
		return recovery.Cluster{}, fmt.Errorf("--object-store %s: it has no %s, so no cluster to recover", object.Redact(url), clusterFileName)
	case err != nil:
		return recovery.Cluster{}, fmt.Errorf("--object-store %s: %w", object.Redact(url), err)
	case f.Shards < 1:
		return recovery.Cluster{}, fmt.Errorf("--object-store %s: %s says %d shards", object.Redact(url), clusterFileName, f.Shards)
	}
	return recovery.Cluster{ID: f.ClusterID, Name: f.ClusterName, Shards: uint32(f.Shards), CreatedMs: f.CreatedMs, ObjectStore: url}, nil
}
