package transport

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// healthy-but-wedged: a leader takes no more answers once a follower refuses an entry, and sends a few requests more. They
// must not wait for ever: the leader could send this follower nothing any more, and would stay the leader.
func TestHealthyButWedgedPipeline(t *testing.T) {
	r := &addresses{}
	a, b := listen(t, r, "C"), listen(t, r, "C")
	here := answering(t, a, Shard(1), "n1/A")
	answering(t, b, Shard(1), "n2/B")
	p, err := here.AppendEntriesPipeline("n2/B", ServerAddress("n2/B", b.Addr().String()))
	require.NoError(t, err)
	const requests = 10 * maxInflight
	sent := make(chan error, 1)
	go func() {
		for i := range uint64(requests) {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: i}, new(raft.AppendEntriesResponse)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Error("a request waits for ever")
	}
	for i := range uint64(requests) { // whoever takes them after all has all of them, in their order
		f := <-p.Consumer()
		require.NoError(t, f.Error())
		require.Equal(t, i, f.Request().Term)
	}
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
}
