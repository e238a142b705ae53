package client_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

// told collects what the callbacks say.
type told struct {
	mu     sync.Mutex
	events []string
}

func (e *told) config() client.ConsumerConfig {
	add := func(kind string) func(context.Context, []client.TopicPartition) {
		return func(_ context.Context, tps []client.TopicPartition) {
			e.mu.Lock()
			defer e.mu.Unlock()
			for _, tp := range tps {
				e.events = append(e.events, kind+" "+tp.String())
			}
		}
	}
	return client.ConsumerConfig{
		Group: "g", Topics: []string{"t"}, OnAssigned: add("assigned"), OnRevoked: add("revoked"), OnLost: add("lost"),
	}
}

func (e *told) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := slices.Clone(e.events)
	e.events = nil
	return out
}

// until polls, and expects no records, until a condition holds.
func until(t *testing.T, r *client.Consumer, ok func() bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		records, err := r.Poll(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Empty(t, records)
		return ok()
	}, 20*time.Second, time.Millisecond)
}

func TestPartitionsAreSharedAndHandedOver(t *testing.T) {
	f := start(t, 4)
	f.fill(t, 4, 5)
	var a, b told
	first := f.consumer(t, a.config())
	poll(t, first, 20)
	require.Equal(t, []string{"assigned t/0", "assigned t/1", "assigned t/2", "assigned t/3"}, a.take())

	second := f.consumer(t, b.config())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := second.Poll(ctx) // the first still has all: it does not poll
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, second.Assignment())

	until(t, first, func() bool { return len(first.Assignment()) == 2 })
	require.Len(t, a.take(), 2, "two are revoked")
	until(t, second, func() bool { return len(second.Assignment()) == 2 })
	for p := range 4 {
		require.EqualValues(t, 5, f.cluster.Offset("g", "t", p), "what was given up is committed; nothing comes twice")
	}
	require.NoError(t, first.Close(t.Context()))
	require.Len(t, a.take(), 2, "Close gives up the rest")
	until(t, second, func() bool { return len(second.Assignment()) == 4 })
	require.Len(t, b.take(), 4)
}

func TestExpiredMemberDropsAllAndJoinsAgain(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 50)
	var e told
	cfg := e.config()
	cfg.MaxPollRecords, cfg.ManualCommit = 10, true
	r := f.consumer(t, cfg)
	old := pollOnce(t, r)
	e.take()
	f.cluster.Expire("g")
	require.Eventually(t, func() bool { return len(r.Assignment()) == 0 }, 10*time.Second, time.Millisecond, "without a Poll")
	require.ErrorIs(t, r.CommitRecords(t.Context(), old...), client.ErrNotOwned)
	require.ErrorIs(t, r.Commit(t.Context()), client.ErrNotOwned, "nothing of what Poll returned was committed")

	again := poll(t, r, 50)
	require.Equal(t, numbers(50), values(again), "what was read ahead is dropped, and read again from what was committed: nothing")
	require.Equal(t, []string{"lost t/0", "assigned t/0"}, e.take())
	require.ErrorIs(t, r.CommitRecords(t.Context(), old...), client.ErrNotOwned, "records of the time before, though the partition is back")
	require.NoError(t, r.CommitRecords(t.Context(), again...))
}

// What was lost since the last Poll is told by Close, and is not given up.
func TestCloseTellsWhatIsLost(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 5)
	var e told
	cfg := e.config()
	cfg.ManualCommit = true
	r := f.consumer(t, cfg)
	poll(t, r, 5)
	e.take()
	f.cluster.Expire("g")
	require.Eventually(t, func() bool { return len(r.Assignment()) == 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, r.Close(t.Context()))
	require.Equal(t, []string{"lost t/0"}, e.take())
}

func TestMemberThatDoesNotPollLeaves(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 5)
	var e told
	cfg := e.config()
	cfg.MaxPollInterval, cfg.ManualCommit = time.Second, true
	r := f.consumer(t, cfg)
	poll(t, r, 5)
	e.take()
	require.Eventually(t, func() bool { return len(f.cluster.Members("g")) == 0 }, 10*time.Second, time.Millisecond)
	err := r.Commit(t.Context())
	require.ErrorIs(t, err, client.ErrMaxPollInterval, "the next call tells, whichever it is")
	require.ErrorIs(t, err, client.ErrNotOwned)
	require.ErrorIs(t, r.Seek(client.TopicPartition{Topic: "t"}, 0), client.ErrMaxPollInterval)
	_, err = r.Poll(t.Context())
	require.ErrorIs(t, err, client.ErrMaxPollInterval)
	require.NoError(t, r.Commit(t.Context()), "it was told")
	require.Equal(t, []string{"lost t/0"}, e.take())
	poll(t, r, 5)
	require.Equal(t, []string{"assigned t/0"}, e.take(), "it has joined again")
}

// The coordinator can't be reached: the member must take it that its session has ended, though nobody says so.
func TestSessionEndsWithoutAnswers(t *testing.T) {
	f := start(t, 1)
	var cut atomic.Bool
	for _, n := range f.nodes {
		n.Before = func(method string) error {
			if cut.Load() && (method == "GroupHeartbeat" || method == "CommitOffset") {
				return clienttest.Break()
			}
			return nil
		}
	}
	f.fill(t, 1, 20)
	var e told
	cfg := e.config()
	cfg.SessionTimeout, cfg.MaxPollRecords, cfg.ManualCommit = time.Second, 5, true
	r := f.consumer(t, cfg)
	records := pollOnce(t, r)
	e.take()
	cut.Store(true)
	require.Eventually(t, func() bool { return len(r.Assignment()) == 0 }, 10*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got, err := r.Poll(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, got, "though there were records read ahead")
	require.Equal(t, []string{"lost t/0"}, e.take())
	require.ErrorIs(t, r.CommitRecords(t.Context(), records...), client.ErrNotOwned)
	cut.Store(false)
	poll(t, r, 20)
}

func TestMembersInTurmoil(t *testing.T) {
	const partitions, records = 6, 200
	f := start(t, partitions)
	for _, n := range f.nodes {
		n.Before = func() func(string) error {
			hook := everyNth(13, clienttest.Break())
			return func(method string) error {
				if method == "GroupHeartbeat" || method == "CommitOffset" || method == "GetOffset" {
					return hook()
				}
				return nil
			}
		}()
	}
	f.fill(t, partitions, records)
	var mu sync.Mutex
	seen := make(map[string]int)
	owner := make(map[client.TopicPartition]int)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	member := func(id int, ctx context.Context) {
		take := func(_ context.Context, tps []client.TopicPartition) {
			mu.Lock()
			defer mu.Unlock()
			for _, tp := range tps {
				if owner[tp] != 0 {
					t.Errorf("%s has two owners: %d and %d", tp, owner[tp], id)
				}
				owner[tp] = id
			}
		}
		give := func(_ context.Context, tps []client.TopicPartition) {
			mu.Lock()
			defer mu.Unlock()
			for _, tp := range tps {
				owner[tp] = 0
			}
		}
		r, err := client.NewConsumer(f.Client, client.ConsumerConfig{Group: "g", Topics: []string{"t"}, MaxPollRecords: 3, OnAssigned: take, OnRevoked: give, OnLost: give})
		if err != nil {
			t.Error(err)
			return
		}
		for {
			got, err := r.Poll(ctx)
			if err != nil {
				break
			}
			mu.Lock()
			for _, rec := range got {
				seen[client.TopicPartition{Topic: rec.Topic, Partition: rec.Partition}.String()+"@"+string(rec.Value)]++
			}
			mu.Unlock()
		}
		if err := r.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for id := 1; id <= 4; id++ {
		life, stop := context.WithCancel(ctx)
		wg.Go(func() { member(id, life) })
		time.AfterFunc(time.Duration(id)*300*time.Millisecond, func() {
			if id < 4 {
				stop()
			}
		})
		defer stop()
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == partitions*records
	}, 50*time.Second, time.Millisecond)
	cancel()
	wg.Wait()
	for what, times := range seen {
		require.Equal(t, 1, times, "%s: nobody failed, so nothing comes twice", what)
	}
}
