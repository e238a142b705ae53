package broker

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/streamhouse/streamhouse/fsm"
)

// maxGroupSeries bounds the pairs of topic and consumer group that are counted apart; those beyond are counted under
// otherGroups, which can't be a group's name.
const (
	maxGroupSeries = 2000
	otherGroups    = "(other)"
)

// The error types, fixed.
const (
	typeInvalid     = "invalid"
	typeNotFound    = "not_found"
	typeTooLarge    = "too_large"
	typeSequence    = "sequence"
	typeThrottled   = "throttled"
	typeUnavailable = "unavailable"
	typeUnknown     = "outcome_unknown"
	typeTimeout     = "timeout"
	typeCanceled    = "canceled"
	typeOutOfRange  = "out_of_range"
	typeDataLoss    = "data_loss"
	typeMembership  = "membership"
	typeInternal    = "internal"
)

var (
	producerErrorTypes = []string{
		typeInvalid, typeNotFound, typeTooLarge, typeSequence, typeThrottled, typeUnavailable, typeUnknown, typeTimeout,
		typeCanceled, typeInternal,
	}
	consumerErrorTypes = []string{
		typeInvalid, typeNotFound, typeTooLarge, typeOutOfRange, typeMembership, typeThrottled, typeUnavailable, typeUnknown, typeTimeout,
		typeCanceled, typeDataLoss, typeInternal,
	}
)

// errorType puts a reason into one of the few types that are counted.
func errorType(reason Reason) string {
	switch reason {
	case reasonInvalidField, reasonCorruptBatch, reasonTopicExists:
		return typeInvalid
	case reasonTopicNotFound, reasonPartitionNotFound, reasonNodeNotFound, reasonGroupNotFound:
		return typeNotFound
	case reasonRecordTooLarge, reasonRequestTooLarge:
		return typeTooLarge
	case reasonOutOfOrder, reasonFenced, reasonUnknownProducer, reasonDuplicate:
		return typeSequence
	case reasonUnknownMember, reasonFencedMember, reasonInstanceInUse, reasonNotOwned, reasonGroupNotEmpty,
		reasonStaleCommit:
		return typeMembership
	case reasonLogFull, reasonDiskFull, reasonTooManyInflight, reasonGroupFull, reasonCoordinatorFull:
		return typeThrottled
	case reasonNoLeader, reasonNotLeader, reasonShuttingDown, reasonStoreUnavailable, reasonShardNotFound, reasonReplicaNotReady,
		reasonFeatureLevel:
		return typeUnavailable
	case reasonOutcomeUnknown:
		return typeUnknown
	case reasonDeadline:
		return typeTimeout
	case reasonCanceled:
		return typeCanceled
	case reasonOffsetOutOfRange:
		return typeOutOfRange
	case reasonCorruptData:
		return typeDataLoss
	default:
		return typeInternal
	}
}

// producerType is errorType for produce, which knows fewer.
func producerType(reason Reason) string {
	switch t := errorType(reason); t {
	case typeOutOfRange, typeDataLoss, typeMembership:
		return typeInternal
	default:
		return t
	}
}

// consumerType is errorType for consume and commit, which know no sequences.
func consumerType(reason Reason) string {
	if t := errorType(reason); t != typeSequence {
		return t
	}
	return typeInternal
}

// Metrics counts what this node answers its clients. Safe for concurrent use.
type Metrics struct {
	producerErrors  *prometheus.CounterVec
	consumerRecords *prometheus.CounterVec
	consumerErrors  *prometheus.CounterVec

	groupAdded chan struct{}      // has room for one: something waits for settle
	topicless  prometheus.Counter // records of no topic

	mu           sync.RWMutex
	topics       map[string]map[string]prometheus.Counter // guarded by mu; topic → group → records; the topics that have series
	shown        map[string]map[string]prometheus.Counter // guarded by mu; group → topic → records; of the groups with a name
	pairs        int                                      // guarded by mu; how many pairs are shown
	waiting      map[string]map[string]*waitingCounts     // guarded by mu; group → topic; of groups that may not exist
	waitingPairs int                                      // guarded by mu; how many pairs wait
}

// NewMetrics registers the metrics, with the series of no topic at 0; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		producerErrors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_producer_errors_total", Help: "Refused or failed produce requests that this node answered.",
		}, []string{"topic", "error_type"}),
		consumerRecords: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_consumer_records_total", Help: "Records that this node served to consumers.",
		}, []string{"topic", "consumer_group"}),
		consumerErrors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_consumer_errors_total", Help: "Failed consume and commit requests that this node answered.",
		}, []string{"topic", "consumer_group", "error_type"}),
		groupAdded: make(chan struct{}, 1),
		topics:     make(map[string]map[string]prometheus.Counter),
		shown:      make(map[string]map[string]prometheus.Counter),
		waiting:    make(map[string]map[string]*waitingCounts),
	}
	m.topicless = m.addLocked("", "")
	return m
}

// addLocked makes the series of a topic and a group, at 0.
func (m *Metrics) addLocked(topic, group string) prometheus.Counter {
	groups := m.topics[topic]
	if groups == nil {
		groups = make(map[string]prometheus.Counter)
		m.topics[topic] = groups
		for _, t := range producerErrorTypes {
			m.producerErrors.WithLabelValues(topic, t)
		}
	}
	c := m.consumerRecords.WithLabelValues(topic, group)
	for _, t := range consumerErrorTypes {
		m.consumerErrors.WithLabelValues(topic, group, t)
	}
	groups[group] = c
	return c
}

// sync makes the series of the topics of the newest view and removes those of all others, but not those of no topic. It
// takes the view under the lock: with an older one it would remove a topic that has come meanwhile, and what it counted.
func (m *Metrics) sync(newest func() *fsm.View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	view := newest()
	for t := range view.Topics() {
		if m.topics[t.Name] == nil {
			m.addLocked(t.Name, "")
		}
	}
	for name, groups := range m.topics {
		if _, ok := view.Topic(name); ok || name == "" {
			continue
		}
		for group := range groups {
			if group != "" && group != otherGroups {
				m.pairs--
				drop(m.shown, topicGroup{name, group})
			}
		}
		delete(m.topics, name)
		for group, topics := range m.waiting {
			if topics[name] != nil {
				m.waitingPairs--
				drop(m.waiting, topicGroup{name, group})
			}
		}
		m.producerErrors.DeletePartialMatch(prometheus.Labels{"topic": name})
		m.consumerRecords.DeletePartialMatch(prometheus.Labels{"topic": name})
		m.consumerErrors.DeletePartialMatch(prometheus.Labels{"topic": name})
	}
}

func (m *Metrics) produceFailed(topic string, reason Reason) {
	m.mu.RLock() // to the end: the series that is removed meanwhile would be made again
	defer m.mu.RUnlock()
	if m.topics[topic] == nil {
		topic = ""
	}
	m.producerErrors.WithLabelValues(topic, producerType(reason)).Inc()
}

func (m *Metrics) has(topic string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.topics[topic] != nil
}

// add makes the series of a topic that is in the newest view, which is taken under the lock as in sync: with an older one
// a topic that is gone would come back.
func (m *Metrics) add(topic string, newest func() *fsm.View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.topics[topic] != nil {
		return
	}
	if _, ok := newest().Topic(topic); ok {
		m.addLocked(topic, "")
	}
}

// known makes sure that a topic of this node's view has its series, though Run may not have seen it yet.
func (b *Broker) known(topic string) {
	if b.metrics.has(topic) {
		return
	}
	if _, ok := b.meta.View().Topic(topic); ok { // else without the lock: anybody may name any topic
		b.metrics.add(topic, b.meta.View)
	}
}

// consumed counts records that were served.
func (b *Broker) consumed(topic, group string, records int) {
	if records == 0 {
		return
	}
	b.known(topic)
	b.metrics.count(topic, group, records, "")
}

// CountProduceError counts a refused or failed produce, under the topic "" where there is none of this name.
func (b *Broker) CountProduceError(topic string, err error) {
	b.known(topic)
	b.metrics.produceFailed(topic, AsError(err).Reason)
}

// CountConsumeError counts a failed consume or commit. A group whose name is not allowed is counted as none.
func (b *Broker) CountConsumeError(topic, group string, err error) {
	if checkGroup(group) != nil {
		group = ""
	}
	b.known(topic)
	b.metrics.count(topic, group, 0, consumerType(AsError(err).Reason))
}

func (b *Broker) syncTopics() {
	b.metrics.sync(b.meta.View)
	b.marks.sync(b.meta.View)
}
