package harness

import (
	"net"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A port that was found free can be listened on at once, also while other tests start processes.
func TestFreePortIsFree(t *testing.T) {
	// Before the first process package os tries out what the kernel can, by a fork without the lock.
	require.NoError(t, exec.CommandContext(t.Context(), "true").Run())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.CommandContext(t.Context(), "true").Run()
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	for range 300 {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", FreeAddr(t))
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
}
