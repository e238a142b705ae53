package shard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What waits has an age on the leader, and what is uploaded has none.
func TestBacklogAge(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.UploadInterval, c.UploadBytes = time.Hour, 1<<30 })
	for _, durable := range []bool{true, false} { // the first lets this leader upload whatever it has
		_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "a")}}, durable)
		require.NoError(t, err)
	}
	first := n.shard.BacklogAge()
	require.Positive(t, first)
	require.Eventually(t, func() bool { return n.shard.BacklogAge() > first+2*uploadTick }, 10*time.Second, uploadTick/5, "it grows")
	_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "b")}}, true)
	require.NoError(t, err)
	require.Zero(t, n.shard.BacklogAge())
}

// What waits has an age also while the metadata does not answer a new leader, which uploads nothing then.
func TestBacklogAgeWithoutMetadata(t *testing.T) {
	n := newNode(t, 1, nil)
	n.metadata.silent.Store(true)
	n.restart()
	_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "a")}}, false)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return n.shard.BacklogAge() > 2*minUploadRetry }, 10*time.Second, uploadTick/5, "it grows")
	n.metadata.silent.Store(false)
	n.waitUploaded()
	require.Zero(t, n.shard.BacklogAge())
}

// A new leader does not begin anew to count for how long the oldest record waits, also where that came with a snapshot.
func TestBacklogAgeOutlivesALeader(t *testing.T) {
	for name, checkpoint := range map[string]bool{"log": false, "snapshot": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1, nil)
			n.metadata.silent.Store(true)
			n.restart() // a leader that uploads nothing
			_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "a")}}, false)
			require.NoError(t, err)
			if checkpoint {
				n.checkpoint()
			}
			const age = 2 * time.Second
			require.Eventually(t, func() bool { return n.shard.BacklogAge() > age }, 20*time.Second, uploadTick/5)
			n.end()
			require.Zero(t, n.shard.BacklogAge(), "it leads no more")
			n.start()
			n.waitLeader()
			require.Greater(t, n.shard.BacklogAge(), age)
			n.metadata.silent.Store(false)
			n.waitUploaded()
			require.Zero(t, n.shard.BacklogAge())
		})
	}
}

// A record from a leader whose clock is ahead has no age yet.
func TestBacklogAgeOfAClockAhead(t *testing.T) {
	m := newMachine(t)
	s := &Shard{fsm: m.fsm}
	s.readyTerm.Store(1)
	m.append(time.Now().Add(time.Hour).UnixMilli(), 7, batchConfig{n: 1, id: -1})
	require.Zero(t, s.BacklogAge())
	m = newMachine(t)
	s.fsm = m.fsm
	m.append(time.Now().Add(-time.Hour).UnixMilli(), 7, batchConfig{n: 1, id: -1})
	require.GreaterOrEqual(t, s.BacklogAge(), time.Hour)
}

func TestPendingSince(t *testing.T) {
	m := newMachine(t)
	requireSince := func(want int64) {
		t.Helper()
		sinceMs, waits := m.fsm.state.pendingSinceMs()
		require.Equal(t, want > 0, waits)
		require.Equal(t, want, sinceMs)
	}
	uploaded := func(id uint64, end int64) {
		require.NoError(t, m.apply(encodeUploaded(1, []uploadedEnd{{id, end}})).err)
	}
	requireSince(0)
	m.append(2000, 7, batchConfig{n: 1, id: -1})
	m.append(3000, 8, batchConfig{n: 1, id: -1})
	m.append(1000, 8, batchConfig{n: 1, id: -1}) // the clock of another leader
	m.append(4000, 8, batchConfig{n: 1, id: -1})
	requireSince(2000)
	uploaded(7, 1)
	requireSince(3000)
	uploaded(8, 2)
	requireSince(3000) // of a run that is uploaded in part
	m.append(5000, 8, batchConfig{n: 1, id: -1})
	m.append(6000, 8, batchConfig{n: 1, id: -1})
	uploaded(8, 3)
	requireSince(5000) // which takes no more batches
	uploaded(8, 5)
	requireSince(0)
	m.append(7000, 8, batchConfig{n: 1, id: -1})
	require.NoError(t, m.apply(encodeDrop(7000, []uint64{8})).err)
	requireSince(0)
}
