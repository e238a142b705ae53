package shard

import (
	"testing"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// What was counted of a partition goes with its topic, also where another node leads it by then, and not before.
func TestSegmentCountsGoWithTheTopic(t *testing.T) {
	n := newNode(t, 1, late)
	m := NewMetrics(nil)
	m.segments.add(1, 2, 1)
	m.ForgetPartitions(n.metadata.View)
	require.Equal(t, segmentCounts{2, 1}, m.segments.get(1))

	n.metadata.do(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{
		Name: "t", Uuid: []byte("uuid-of-the-topic"[:16]),
	}}})
	m.ForgetPartitions(func() *fsm.View {
		m.segments.add(7, 1, 0) // of a topic that is newer than the view
		return n.metadata.View()
	})
	require.Zero(t, m.segments.get(1))
	require.Equal(t, segmentCounts{1, 0}, m.segments.get(7))
}
