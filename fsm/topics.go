package fsm

import (
	"maps"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

func topicNotFound(name string) *Rejection {
	return reject(streamhousev1.ErrorReason_ERROR_REASON_TOPIC_NOT_FOUND, "there is no topic %s", quoteShort(name))
}

func parseUUID(b []byte) ([16]byte, *Rejection) {
	if len(b) != 16 || [16]byte(b) == [16]byte{} {
		return [16]byte{}, invalid("uuid", "is not a UUID")
	}
	return [16]byte(b), nil
}

// createTopic succeeds again for the same UUID, even when the topic was deleted since.
func (tx *txn) createTopic(c *metav1.CreateTopic) *Rejection {
	uuid, r := parseUUID(c.GetUuid())
	if r != nil {
		return r
	}
	if err := ValidateName(c.GetName()); err != nil {
		return invalid("name", "%v", err)
	}
	tx.result.TopicUuid = uuid[:]
	if _, ok := tx.deleted.Get(string(uuid[:])); ok {
		return nil
	}
	if t, ok := tx.TopicByUUID(uuid); ok {
		if t.Name != c.GetName() {
			return invalid("uuid", "topic %s has it", t.Name)
		}
		return nil
	}
	if _, ok := tx.Topic(c.GetName()); ok {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_TOPIC_EXISTS, "topic %s exists", c.GetName())
	}
	if n := c.GetPartitions(); n < 1 || n > MaxPartitions {
		return invalid("partitions", "%d is not from 1 to %d", n, MaxPartitions)
	}
	if err := ValidateConfig(c.GetConfig()); err != nil {
		return invalid("config", "%v", err)
	}
	t := &Topic{Name: c.GetName(), UUID: uuid, Config: maps.Clone(c.GetConfig()), CreatedMs: c.GetTimeMs()}
	if r := tx.addPartitions(t, int(c.GetPartitions())); r != nil {
		return r
	}
	tx.setTopic(t)
	return nil
}

func (tx *txn) setTopic(t *Topic) {
	tx.topics = tx.topics.Set(t.Name, t)
	tx.topicsByUUID = tx.topicsByUUID.Set(string(t.UUID[:]), t)
}

// addPartitions grows a topic, which must not be in a View yet, to n partitions.
func (tx *txn) addPartitions(t *Topic, n int) *Rejection {
	if total := tx.partitions.Len() + n - len(t.PartitionIDs); total > MaxTotalPartitions {
		return invalid("partitions", "the cluster would have %d, at most %d", total, MaxTotalPartitions)
	}
	ids := make([]uint64, len(t.PartitionIDs), n)
	copy(ids, t.PartitionIDs)
	for len(ids) < n {
		id := tx.nextPartition
		tx.nextPartition++
		tx.partitions = tx.partitions.Set(id, &Partition{
			ID:        id,
			TopicUUID: t.UUID,
			Shard:     uint32(id % uint64(tx.NumShards())),
			Number:    int32(len(ids)),
		})
		ids = append(ids, id)
	}
	t.PartitionIDs = ids
	return nil
}

func (tx *txn) alterTopic(c *metav1.AlterTopic) *Rejection {
	known, ok := tx.Topic(c.GetName())
	if !ok {
		return topicNotFound(c.GetName())
	}
	if err := ValidateConfig(c.GetSetConfig()); err != nil {
		return invalid("set_config", "%v", err)
	}
	t := *known
	t.Config = maps.Clone(known.Config)
	if t.Config == nil {
		t.Config = make(map[string]string)
	}
	for _, key := range c.GetUnsetConfig() {
		if err := validateConfigKey(key); err != nil {
			return invalid("unset_config", "%v", err)
		}
		if _, both := c.GetSetConfig()[key]; both {
			return invalid("unset_config", "%s is in set_config too", key)
		}
		delete(t.Config, key)
	}
	maps.Copy(t.Config, c.GetSetConfig())
	if n := int64(c.GetPartitions()); n != 0 {
		if n < int64(len(t.PartitionIDs)) || n > MaxPartitions {
			return invalid("partitions", "%d is not from %d, which there are, to %d", n, len(t.PartitionIDs), MaxPartitions)
		}
		if r := tx.addPartitions(&t, int(n)); r != nil {
			return r
		}
	}
	tx.setTopic(&t)
	tx.result.TopicUuid = t.UUID[:]
	return nil
}

// deleteTopic leaves a tombstone until all shards have dropped its partitions: those that hold them, and those that
// hold offsets which groups have committed for them.
// A UUID that is gone is no error: this is what was asked for.
func (tx *txn) deleteTopic(c *metav1.DeleteTopic) *Rejection {
	uuid, r := parseUUID(c.GetUuid())
	if r != nil {
		return r
	}
	t, ok := tx.TopicByUUID(uuid)
	if !ok {
		return nil
	}
	if t.Name != c.GetName() {
		return invalid("name", "the topic's name is %s", t.Name)
	}
	pending := make([]uint32, 0, tx.NumShards())
	for number := range tx.NumShards() {
		pending = append(pending, number)
	}
	for _, id := range t.PartitionIDs {
		p, _ := tx.Partition(id)
		tx.releaseSegments(p.Segments)
		tx.partitions = tx.partitions.Delete(id)
	}
	tx.topics = tx.topics.Delete(t.Name)
	tx.topicsByUUID = tx.topicsByUUID.Delete(string(uuid[:]))
	tx.deleted = tx.deleted.Set(string(uuid[:]), &DeletedTopic{
		UUID:          uuid,
		Name:          t.Name,
		PartitionIDs:  t.PartitionIDs,
		PendingShards: pending,
		DeletedMs:     c.GetTimeMs(),
	})
	return nil
}

// purgeTopic takes a shard off a tombstone; the last one takes the tombstone away.
func (tx *txn) purgeTopic(c *metav1.PurgeTopic) *Rejection {
	uuid, r := parseUUID(c.GetUuid())
	if r != nil {
		return r
	}
	known, ok := tx.deleted.Get(string(uuid[:]))
	if !ok {
		if t, live := tx.TopicByUUID(uuid); live {
			return wrongState("topic %s is not deleted", t.Name)
		}
		return nil
	}
	t := *known
	t.PendingShards = slices.DeleteFunc(slices.Clone(known.PendingShards), func(n uint32) bool { return n == c.GetShard() })
	if len(t.PendingShards) == 0 {
		tx.deleted = tx.deleted.Delete(string(uuid[:]))
		return nil
	}
	tx.deleted = tx.deleted.Set(string(uuid[:]), &t)
	return nil
}
