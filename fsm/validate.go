package fsm

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// FeatureLevel is the newest set of commands, of the metadata group and of shards, that this binary knows. A command is
// proposed only once the whole cluster has switched to its level.
const FeatureLevel = 4

// FeatureLevelGroups is the level from which on shards log the members of consumer groups.
const FeatureLevelGroups = 2

// FeatureLevelRecovery is the level of a cluster that was recovered from its object store: its shards log where they go on.
const FeatureLevelRecovery = 3

// FeatureLevelCommitSequence is the level from which on shards log the sequence of a member's commit.
const FeatureLevelCommitSequence = 4

// FeatureLevelReplace is the level from which on damaged objects are written anew: the metadata knows ReplaceSegments.
const FeatureLevelReplace = 4

const (
	// MaxPartitions is how many partitions a topic can have.
	MaxPartitions = 100_000
	// MaxTotalPartitions is how many partitions all topics together can have.
	MaxTotalPartitions = 1_000_000
	// MaxShards is how many shards a cluster can have.
	MaxShards = 1024
	// MaxReplicas is how many replicas the wish for a shard can name, those to be replaced included.
	MaxReplicas = 9
	// GroupSlots is the number of slots that consumer groups hash to.
	GroupSlots = 64

	maxNameBytes       = 249
	maxNodeIDBytes     = 64
	maxStringBytes     = 1024
	maxProducerIDs     = 1_000_000
	maxMessageBytesMax = 64 << 20
)

// The configs of a topic.
const (
	ConfigRetentionMs     = "retention.ms"
	ConfigRetentionBytes  = "retention.bytes"
	ConfigMaxMessageBytes = "max.message.bytes"
)

// defaultRetentionMs is retention.ms where it is not set: 7 days.
const defaultRetentionMs = 7 * 24 * 60 * 60 * 1000

// Unlimited is the value of retention.ms and retention.bytes that keeps everything.
const Unlimited = -1

// configBounds of a config's value; unlimited allows -1 too.
type configBounds struct {
	lowest, highest int64
	unlimited       bool
}

var configs = map[string]configBounds{
	ConfigRetentionMs:     {lowest: 1, highest: math.MaxInt64, unlimited: true},
	ConfigRetentionBytes:  {lowest: 1, highest: math.MaxInt64, unlimited: true},
	ConfigMaxMessageBytes: {lowest: 1, highest: maxMessageBytesMax},
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}

func isName(s string, maxBytes int) bool {
	if s == "" || len(s) > maxBytes {
		return false
	}
	for i := range len(s) {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return true
}

// ValidateName checks the name of a topic or of a consumer group.
func ValidateName(name string) error {
	if !isName(name, maxNameBytes) {
		return fmt.Errorf("%s does not match [a-zA-Z0-9._-]{1,%d}", quoteShort(name), maxNameBytes)
	}
	return nil
}

// ValidateNodeID checks the id of a node.
func ValidateNodeID(id string) error {
	if !isName(id, maxNodeIDBytes) {
		return fmt.Errorf("%s does not match [a-zA-Z0-9._-]{1,%d}", quoteShort(id), maxNodeIDBytes)
	}
	return nil
}

// ValidateConfig checks the configs of a topic. The error names the first key, in order, that is wrong.
func ValidateConfig(config map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(config)) {
		if _, err := parseConfig(key, config[key]); err != nil {
			return err
		}
	}
	return nil
}

func validateConfigKey(key string) error {
	if _, ok := configs[key]; !ok {
		return fmt.Errorf("%s is not a config; there are %s", quoteShort(key), strings.Join(slices.Sorted(maps.Keys(configs)), ", "))
	}
	return nil
}

func parseConfig(key, value string) (int64, error) {
	if err := validateConfigKey(key); err != nil {
		return 0, err
	}
	b := configs[key]
	n, err := strconv.ParseInt(value, 10, 64)
	if err == nil && (n >= b.lowest && n <= b.highest || b.unlimited && n == Unlimited) {
		return n, nil
	}
	bounds := fmt.Sprintf("a whole number from %d to %d", b.lowest, b.highest)
	if b.unlimited {
		bounds += ", or -1 for no limit"
	}
	return 0, fmt.Errorf("%s: %s is not %s", key, quoteShort(value), bounds)
}

// EffectiveConfig is what holds for a topic, defaults filled in.
type EffectiveConfig struct {
	// RetentionMs is how long records are kept; Unlimited for ever.
	RetentionMs int64
	// RetentionBytes is how many bytes of a partition's segments are kept; Unlimited for all.
	RetentionBytes int64
	// MaxMessageBytes bounds one record; 0 leaves it to the node's own limit.
	MaxMessageBytes int64
}

// EffectiveConfig returns what holds for the topic.
func (t *Topic) EffectiveConfig() EffectiveConfig {
	c := EffectiveConfig{RetentionMs: defaultRetentionMs, RetentionBytes: Unlimited}
	set := func(key string, field *int64) {
		if v, ok := t.Config[key]; ok {
			if n, err := parseConfig(key, v); err == nil {
				*field = n
			}
		}
	}
	set(ConfigRetentionMs, &c.RetentionMs)
	set(ConfigRetentionBytes, &c.RetentionBytes)
	set(ConfigMaxMessageBytes, &c.MaxMessageBytes)
	return c
}

// quoteShort quotes what came from outside, cut to a length that fits a message.
func quoteShort(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// NodeOf returns the node that holds a replica: the part of the replica's id before the slash.
func NodeOf(replicaID string) string {
	nodeID, _, _ := strings.Cut(replicaID, "/")
	return nodeID
}

// validateReplicaID checks that an id is <node id>/<name>.
func validateReplicaID(field, replicaID, nodeID string) *Rejection {
	of, name, ok := strings.Cut(replicaID, "/")
	if !ok || of != nodeID || !isName(name, maxNodeIDBytes) {
		return invalid(field, "%s is not %s/<id>", quoteShort(replicaID), nodeID)
	}
	return nil
}

func validateString(field, value string, required bool) *Rejection {
	switch {
	case required && value == "":
		return invalid(field, "must be set")
	case len(value) > maxStringBytes:
		return invalid(field, "%d bytes, at most %d", len(value), maxStringBytes)
	}
	return nil
}
