package client

import (
	"context"
	"time"
)

// Reset says where to read where there is no committed offset, or the offset is no longer in the log.
type Reset string

// Resets.
const (
	// ResetEarliest reads from the log start. It is the default: nothing is left out that is still there.
	ResetEarliest Reset = "earliest"
	// ResetLatest reads what comes from now on.
	ResetLatest Reset = "latest"
	// ResetNone makes Poll return ErrNoOffset or ErrOffsetOutOfRange for the partition, which is then read no further until
	// Seek.
	ResetNone Reset = "none"
)

// ConsumerConfig says what a consumer reads and how. Zero values are the defaults.
type ConsumerConfig struct {
	// Group is the consumer group. With Topics the consumer is a member, and gets its share of their partitions; with
	// Partitions it only begins where the group has committed, and commits. Without a group it reads all it names.
	Group string
	// Topics to read, 1 to 1,000. Topics that do not exist yet are read once they do.
	Topics []string
	// Partitions to read, instead of Topics.
	Partitions []TopicPartition
	// InstanceID makes a member static: it may close and come back within its session without a rebalance. It must be
	// unique in the group, [a-zA-Z0-9._-]{1,249}.
	InstanceID string
	// Reset says where to begin without a committed offset. The default is ResetEarliest.
	Reset Reset
	// ManualCommit leaves commits to the program. Otherwise what Poll has returned is committed once Poll is called again:
	// every AutoCommitInterval, before a partition is given up, and by Close.
	ManualCommit bool
	// AutoCommitInterval is the time between commits. The default is 1 s.
	AutoCommitInterval time.Duration
	// MaxPollRecords bounds what one Poll returns. The default is 500.
	MaxPollRecords int
	// MaxPollInterval is for how long a member may work on what Poll returned. When it has not called Poll again by then it
	// leaves the group, and the next Poll says so with ErrMaxPollInterval. 1 s to 24 h; the default is 5 minutes.
	MaxPollInterval time.Duration
	// SessionTimeout is for how long a member may be silent before others get its partitions, 1 s to 30 minutes. It tells
	// of itself in the background, about six times in that time. The default is 30 s.
	SessionTimeout time.Duration
	// FetchBytes bounds one read of a partition, 1 KiB to 16 MiB. The default is 1 MiB.
	FetchBytes int
	// FetchMaxWait is how long a node waits for new records before it answers, at most 60 s. The default is 5 s.
	FetchMaxWait time.Duration
	// PrefetchBytes bounds what is read ahead of Poll, as it came over the wire; reads that are under way may come on top,
	// at most as much again, or 64 KiB for each partition where that is more. The default is 32 MiB.
	PrefetchBytes int
	// OnAssigned, OnRevoked and OnLost are told of a member's partitions, within Poll or Close: what it got; what it is to
	// give up, with its positions still to be committed; and what it has lost, so that nothing can be committed. They may
	// call all methods of the Consumer but Poll and Close. While OnRevoked runs nobody else gets the partitions. Their
	// context does not end with that of Poll, but after Config.RequestTimeout.
	OnAssigned, OnRevoked, OnLost func(context.Context, []TopicPartition)
}

const (
	minFetchBytes       = 1 << 10
	maxFetchBytes       = 16 << 20
	maxFetchWait        = time.Minute
	minSession          = time.Second
	maxSession          = 30 * time.Minute
	minPollInterval     = time.Second
	maxPollInterval     = 24 * time.Hour
	maxSubscribedTopics = 1000
)

// Validate returns an error that names the first field with a bad value.
func (c ConsumerConfig) Validate() error {
	switch {
	case len(c.Topics) == 0 && len(c.Partitions) == 0:
		return badField("Topics", "neither Topics nor Partitions is set")
	case len(c.Topics) > 0 && len(c.Partitions) > 0:
		return badField("Partitions", "either Topics or Partitions is set, not both")
	case len(c.Topics) > maxSubscribedTopics:
		return badField("Topics", "%d of them, at most %d are allowed", len(c.Topics), maxSubscribedTopics)
	case c.InstanceID != "" && !c.member():
		return badField("InstanceID", "it needs Group and Topics")
	case c.Reset != "" && c.Reset != ResetEarliest && c.Reset != ResetLatest && c.Reset != ResetNone:
		return badField("Reset", "%q must be earliest, latest or none", c.Reset)
	case c.MaxPollRecords < 0:
		return badField("MaxPollRecords", "%d is below 0", c.MaxPollRecords)
	case c.FetchBytes != 0 && (c.FetchBytes < minFetchBytes || c.FetchBytes > maxFetchBytes):
		return badField("FetchBytes", "%d is not from %d to %d", c.FetchBytes, minFetchBytes, maxFetchBytes)
	case c.PrefetchBytes < 0:
		return badField("PrefetchBytes", "%d is below 0", c.PrefetchBytes)
	}
	for _, d := range []struct {
		field              string
		value, least, most time.Duration
	}{
		{"AutoCommitInterval", c.AutoCommitInterval, time.Millisecond, time.Hour},
		{"MaxPollInterval", c.MaxPollInterval, minPollInterval, maxPollInterval},
		{"SessionTimeout", c.SessionTimeout, minSession, maxSession},
		{"FetchMaxWait", c.FetchMaxWait, time.Millisecond, maxFetchWait},
	} {
		if d.value != 0 && (d.value < d.least || d.value > d.most) {
			return badField(d.field, "%s is not from %s to %s", d.value, d.least, d.most)
		}
	}
	return nil
}

// member reports whether the consumer takes part in its group.
func (c ConsumerConfig) member() bool { return c.Group != "" && len(c.Topics) > 0 }

func (c ConsumerConfig) withDefaults() ConsumerConfig {
	setDefault(&c.Reset, ResetEarliest)
	setDefault(&c.AutoCommitInterval, time.Second)
	setDefault(&c.MaxPollRecords, 500)
	setDefault(&c.MaxPollInterval, 5*time.Minute)
	setDefault(&c.SessionTimeout, 30*time.Second)
	setDefault(&c.FetchBytes, 1<<20)
	setDefault(&c.FetchMaxWait, 5*time.Second)
	setDefault(&c.PrefetchBytes, 32<<20)
	return c
}
