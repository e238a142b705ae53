package integration_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/object/objecttest"
)

// The real S3 server keeps what every bucket promises.
func TestObjectStoreOfS3(t *testing.T) {
	for _, env := range harness.S3Env() {
		key, value, _ := strings.Cut(env, "=")
		t.Setenv(key, value)
	}
	g := harness.StartGateway(t)
	g.CreateBucket(t, "acceptance")
	var n atomic.Int32
	objecttest.Run(t, func(t *testing.T) object.Bucket {
		t.Helper()
		b, err := object.Open(t.Context(), harness.StoreURL(g.Addr(), "acceptance", fmt.Sprintf("run-%d", n.Add(1))))
		require.NoError(t, err)
		return object.WithRetry(b, object.RetryConfig{})
	})
}
