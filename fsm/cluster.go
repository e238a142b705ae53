package fsm

import (
	"math"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// initCluster begins the cluster. Again for the same cluster it succeeds.
func (tx *txn) initCluster(c *metav1.InitCluster) *Rejection {
	switch tx.clusterID {
	case "":
	case c.GetClusterId():
		return nil
	default:
		return reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER, "this is cluster %s already", tx.clusterID)
	}
	if r := validateString("cluster_id", c.GetClusterId(), true); r != nil {
		return r
	}
	if r := validateString("cluster_name", c.GetClusterName(), true); r != nil {
		return r
	}
	if r := validateString("object_store", c.GetObjectStore(), false); r != nil {
		return r
	}
	if n := c.GetShards(); n < 1 || n > MaxShards {
		return invalid("shards", "%d is not from 1 to %d", n, MaxShards)
	}
	tx.clusterID = c.GetClusterId()
	tx.clusterName = c.GetClusterName()
	tx.objectStore = c.GetObjectStore()
	tx.createdMs = c.GetTimeMs()
	tx.featureLevel = 1
	tx.shards = make([]*Shard, c.GetShards())
	return nil
}

// allocateProducerIDs gives a block of ids that nobody else gets. A retry wastes one.
func (tx *txn) allocateProducerIDs(c *metav1.AllocateProducerIDs) *Rejection {
	n := int64(c.GetCount())
	if n < 1 || n > maxProducerIDs {
		return invalid("count", "%d is not from 1 to %d", n, maxProducerIDs)
	}
	if tx.nextProducerID > math.MaxInt64-n {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_INTERNAL, "all producer ids are used up")
	}
	tx.result.FirstProducerId = tx.nextProducerID
	tx.nextProducerID += n
	return nil
}

// setFeatureLevel allows newer commands, once every node knows them. It never goes back.
func (tx *txn) setFeatureLevel(c *metav1.SetFeatureLevel) *Rejection {
	level := c.GetLevel()
	if level < tx.featureLevel {
		return invalid("level", "%d is below %d, which is in use", level, tx.featureLevel)
	}
	for _, n := range tx.nodes {
		if n.FeatureLevel < level {
			return wrongState("node %s supports feature level %d, not %d: upgrade it first", n.ID, n.FeatureLevel, level)
		}
	}
	tx.featureLevel = level
	return nil
}
