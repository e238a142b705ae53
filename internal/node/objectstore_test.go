package node

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// silent-fallback: a node whose object store does not answer on its first start ends, with the setting's name, and keeps
// nothing anywhere else.
func TestSilentFallback(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	store := "s3://bucket/prefix?region=eu-west-1&path_style=true&endpoint=http://" + freeAddr(t)
	dir := t.TempDir()
	require.ErrorContains(t, run(t, testConfig(t, "n1", dir, map[string]string{"object-store": store})).refuses(), "--object-store")
	left, err := filepath.Glob(filepath.Join(dir, "n1", "*", "*"))
	require.NoError(t, err)
	require.Empty(t, left, "it has made no replica")
}

// s3-unreadies-all: a node whose object store has gone is ready all the same, takes records, and uploads them when the store
// is back.
func TestS3UnreadiesAllOfANode(t *testing.T) {
	dir := t.TempDir()
	n := run(t, testConfig(t, "n1", dir, map[string]string{"upload-interval": "100ms"}))
	n.waitReady()
	n.createTopic()
	n.produce("0")
	store := filepath.Join(dir, "objects")
	require.NoError(t, os.Rename(store, store+".away"))
	require.NoError(t, os.WriteFile(store, nil, 0o600)) // no directory can be made here
	n.produce("1")
	require.Never(t, func() bool {
		code, _ := n.ready()
		return code != http.StatusOK
	}, 3*time.Second, tick)
	n.produce("2")
	require.Equal(t, "0 1 2", n.consume())
	require.NoError(t, os.Remove(store))
	require.NoError(t, os.Rename(store+".away", store))
	partition := int32(0)
	_, err := n.client().Produce(n.call(), &streamhousev1.ProduceRequest{
		Topic: testTopic, Partition: &partition, Record: &streamhousev1.Record{Value: []byte("3")}, Acks: streamhousev1.Acks_ACKS_DURABLE,
	})
	require.NoError(t, err)
}
