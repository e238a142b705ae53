package transport

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestIsMember tells a live node of a cluster from whatever else may be at its address.
func TestIsMember(t *testing.T) {
	tr := listen(t, &addresses{}, "c1")
	ask := func(addr, cluster string) bool {
		member, err := IsMember(t.Context(), addr, cluster)
		require.NoError(t, err)
		return member
	}
	require.True(t, ask(tr.Addr().String(), "c1"))
	require.False(t, ask(tr.Addr().String(), "c2"))
	fresh := listen(t, &addresses{}, "")
	require.False(t, ask(fresh.Addr().String(), "c1"), "it waits for a cluster")

	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	silent := lis.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), dialTimeout/10)
	defer cancel()
	_, err = IsMember(ctx, silent, "c1")
	require.Error(t, err, "it may be a node that is paused")
	require.NoError(t, lis.Close())
	require.False(t, ask(silent, "c1"), "nobody is there")
}
