package broker

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// The series of a group go with the group; those of a name that no group has ever had stay.
func TestSeriesGoWithTheGroup(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	f.syncTopics()
	f.beat(t, joining())
	f.consumed("t", "g", 5)
	f.consumed("t", "reader", 1)
	count := func() int { return testutil.CollectAndCount(f.metrics.consumerRecords) }
	before := count()
	existing := make(map[string]bool)
	f.syncGroups(t.Context(), existing)
	require.Equal(t, before, count())

	_, err := f.LeaveGroup(t.Context(), &streamhousev1.LeaveGroupRequest{Group: "g", MemberId: "m", MemberEpoch: 1})
	require.NoError(t, err)
	_, err = f.DeleteGroup(t.Context(), &streamhousev1.DeleteGroupRequest{Group: "g"})
	require.NoError(t, err)
	for range 2 {
		f.syncGroups(t.Context(), existing)
		require.Equal(t, before-1, count())
		require.Empty(t, existing)
	}
	require.InDelta(t, 1, testutil.ToFloat64(f.metrics.consumerRecords.WithLabelValues("t", "reader")), 0)
	require.Equal(t, []string{"reader"}, f.metrics.groups())
}
