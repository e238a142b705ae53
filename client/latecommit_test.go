package client_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
)

// The network holds the first try of a commit until its retry, and a later commit, were acknowledged. When it comes at last it
// changes nothing.
func TestLateCommit(t *testing.T) {
	f := start(t, 1)
	release, handled := make(chan struct{}), make(chan struct{}, 10)
	var commits atomic.Int32
	f.nodes[0].Before = func(method string) error {
		if method == "CommitOffset" && commits.Add(1) == 1 {
			<-release
		}
		return nil
	}
	f.nodes[0].Answering = func(method string) {
		if method == "CommitOffset" {
			handled <- struct{}{}
		}
	}
	f.fill(t, 1, 10)
	r := f.consumer(t, client.ConsumerConfig{Group: "g", Topics: []string{"t"}, ManualCommit: true})
	poll(t, r, 10)
	commit := func(offset int64) {
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second) // the first try gets half of it
		defer cancel()
		require.NoError(t, r.CommitOffsets(ctx, map[client.TopicPartition]client.Committed{t0: {Offset: offset}}))
		require.Equal(t, offset, f.cluster.Offset("g", "t", 0))
	}
	commit(3)
	require.EqualValues(t, 1, commits.Load(), "the first try is held, and the retry went to the other node")
	commit(7)
	for len(handled) > 0 {
		<-handled
	}
	close(release)
	<-handled
	require.EqualValues(t, 7, f.cluster.Offset("g", "t", 0))
	commit(5)
}

// Each topic's commit is one of its own, also after the member was lost and has joined again.
func TestCommitsOfTwoTopics(t *testing.T) {
	f := start(t, 1)
	createTopic(t, f.nodes[0].Addr(), "u", 1)
	r := f.consumer(t, client.ConsumerConfig{Group: "g", Topics: []string{"t", "u"}, ManualCommit: true})
	owns := func() bool { return len(r.Assignment()) == 2 }
	until(t, r, owns)
	u0 := client.TopicPartition{Topic: "u"}
	commit := func(metadata string) {
		offsets := map[client.TopicPartition]client.Committed{t0: {Metadata: metadata}, u0: {Metadata: metadata}}
		require.NoError(t, r.CommitOffsets(t.Context(), offsets))
		committed, err := r.Committed(t.Context(), t0, u0)
		require.NoError(t, err)
		require.Equal(t, offsets, committed)
	}
	commit("first")
	commit("second")
	f.cluster.Expire("g")
	require.Eventually(t, func() bool { return len(r.Assignment()) == 0 }, 10*time.Second, time.Millisecond)
	until(t, r, owns)
	commit("third")
}
