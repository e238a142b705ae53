package object

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Connecting has less time than an attempt, so that an address that does not answer is tried again.
func TestS3ConnectTimeout(t *testing.T) {
	require.Equal(t, s3ConnectTimeout, s3HTTPClient().GetDialer().Timeout)
	require.Less(t, s3ConnectTimeout, RetryConfig{}.withDefaults().AttemptTimeout)
}
