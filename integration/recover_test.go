package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// recovered is what cluster recover -o json says.
type recovered struct {
	Recovery    string `json:"recovery"`
	Checkpoint  string `json:"checkpoint"`
	Records     int64  `json:"records"`
	LostRecords int64  `json:"lost_records"`
	Topics      []struct {
		Topic         string `json:"topic"`
		TopicUUID     string `json:"topic_uuid"`
		ConfigUnknown bool   `json:"config_unknown"`
	} `json:"topics"`
	Skipped []struct {
		Object string `json:"object"`
		Reason string `json:"reason"`
	} `json:"skipped_objects"`
	Executed bool `json:"executed"`
}

// runRecover runs cluster recover; text is what it said on stderr.
func runRecover(t *testing.T, c *harness.Cluster, args ...string) (r recovered, text string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, harness.Binary(t), append([]string{
		"cluster", "recover", "--object-store", c.ObjectStore(), "--settle", "1s", "-o", "json",
	}, args...)...)
	cmd.Env = append(os.Environ(), harness.S3Env()...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if stdout.Len() > 0 {
		require.NoError(t, json.Unmarshal(stdout.Bytes(), &r), stdout.String())
	}
	t.Logf("cluster recover %v: %s%s", args, stdout.String(), stderr.String())
	return r, stderr.String(), err
}

// waitCheckpointed waits until topics and deletions are in the object store as they are now.
func waitCheckpointed(t *testing.T, c *harness.Cluster) {
	t.Helper()
	before := c.MustSum("streamhouse_metadata_checkpoints_total", nil)
	c.CreateTopic(fmt.Sprintf("marker-%d", time.Now().UnixNano()), 1, nil)
	harness.Eventually(t, syncWithin, "the metadata is in the object store", func(ctx context.Context) error {
		n, err := c.Sum(ctx, "streamhouse_metadata_checkpoints_total", nil)
		if err == nil && n <= before {
			err = fmt.Errorf("%v checkpoints", n)
		}
		if err != nil {
			return err
		}
		pending, err := c.Sum(ctx, "streamhouse_metadata_checkpoint_pending_seconds", nil)
		if err == nil && pending > 0 {
			err = fmt.Errorf("a change waits for %v s", pending)
		}
		return err
	})
}

// waitGroupsSaved waits until a shard has put committed offsets into the object store.
func waitGroupsSaved(t *testing.T, c *harness.Cluster) {
	t.Helper()
	harness.Eventually(t, syncWithin, "committed offsets are in the object store", func(ctx context.Context) error {
		objects, err := c.Gateway.Objects(ctx, harness.Bucket, "")
		if err != nil {
			return err
		}
		for name := range objects {
			if strings.Contains(name, "/groups/") {
				return nil
			}
		}
		return errors.New("no object has them")
	})
}

// wipeAll takes every node's disk away.
func wipeAll(c *harness.Cluster) {
	c.KillAll()
	for _, n := range c.Nodes {
		n.Wipe()
	}
}

// The drill: every node with its disk is gone, and the cluster comes back from the object store.
func TestRecoverFromTheBucket(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	ledgers := make(map[string]*harness.Ledger)
	for i, name := range []string{"orders", "payments", "clicks"} {
		c.CreateTopic(name, int32(2+i), map[string]string{"retention.ms": "-1", "max.message.bytes": fmt.Sprint(100_000 + i)})
		ledgers[name] = harness.NewLedger(name)
		c.ProduceN(ledgers[name], harness.ProducerConfig{Name: "before", Partitions: int32(2 + i)}, 20)
	}
	empty := c.CreateTopic("empty", 5, map[string]string{"retention.bytes": "1000000"})
	c.CreateTopic("deleted", 2, nil)
	deleted := harness.NewLedger("deleted")
	c.ProduceN(deleted, harness.ProducerConfig{Name: "before", Partitions: 2}, 10)
	waitUploaded(t, c, "deleted")
	cl := c.Client(client.Config{})
	admin := client.NewAdmin(cl)
	require.NoError(t, admin.DeleteTopic(t.Context(), "deleted"))
	require.NoError(t, admin.CommitOffsets(t.Context(), "billing", "orders", map[int32]client.Committed{0: {Offset: 7, Metadata: "m"}, 1: {Offset: 11}}))
	producerID, err := c.Nodes[0].InitProducer(call(t), &streamhousev1.InitProducerRequest{})
	require.NoError(t, err)
	before := make(map[string]*streamhousev1.Topic)
	for name := range ledgers {
		waitUploaded(t, c, name)
		before[name] = c.Topic(name)
	}
	waitGroupsSaved(t, c)
	waitCheckpointed(t, c)

	plan, text, err := runRecover(t, c)
	require.NoError(t, err)
	require.Contains(t, text, "nothing was changed")
	require.False(t, plan.Executed)
	_, text, err = runRecover(t, c, "--execute")
	require.Error(t, err, "nodes live")
	require.Contains(t, text, "a node of the cluster lives")

	wipeAll(c)
	plan, _, err = runRecover(t, c, "--execute")
	require.NoError(t, err)
	require.True(t, plan.Executed)
	require.NotEmpty(t, plan.Checkpoint)
	require.Zero(t, plan.LostRecords)
	again, _, err := runRecover(t, c, "--execute")
	require.NoError(t, err, "it may be repeated")
	require.Equal(t, plan.Records, again.Records)
	require.Equal(t, plan.Topics, again.Topics)

	c.Start()
	c.WaitInSync(syncWithin)
	for name, ledger := range ledgers {
		after := c.Topic(name)
		require.Equal(t, before[name].GetConfig(), after.GetConfig(), name)
		require.Equal(t, before[name].GetUuid(), after.GetUuid(), name)
		require.Len(t, after.GetPartitions(), len(before[name].GetPartitions()))
		ledger.Verify(t, c.Nodes...)
	}
	require.Equal(t, empty.GetUuid(), c.Topic("empty").GetUuid())
	require.Len(t, c.Topic("empty").GetPartitions(), 5)
	_, err = c.Nodes[0].GetTopic(call(t), &streamhousev1.GetTopicRequest{Name: "deleted"})
	require.True(t, harness.IsCode(err, codes.NotFound, "TOPIC_NOT_FOUND"), "%v", err)
	newID, err := c.Nodes[0].InitProducer(call(t), &streamhousev1.InitProducerRequest{})
	require.NoError(t, err)
	require.Greater(t, newID.GetProducerId(), producerID.GetProducerId(), "no id is given out twice")
	committed, err := admin.CommittedOffsets(t.Context(), "billing", "orders")
	require.NoError(t, err)
	require.Equal(t, int64(7), committed[0].Offset)
	require.Equal(t, "m", committed[0].Metadata)
	require.Equal(t, int64(11), committed[1].Offset)

	for name, ledger := range ledgers {
		c.ProduceN(ledger, harness.ProducerConfig{Name: "after", Partitions: int32(len(before[name].GetPartitions()))}, 10)
		ledger.Verify(t, c.Nodes...)
	}
	for _, n := range c.Nodes {
		n.Stop()
		n.Start()
		c.WaitInSync(syncWithin)
	}
	for name, ledger := range ledgers {
		ledger.Verify(t, c.Nodes...)
		waitUploaded(t, c, name)
	}

	waitCheckpointed(t, c)
	wipeAll(c) // a second time, from the life that the first recovery began
	second, _, err := runRecover(t, c, "--execute")
	require.NoError(t, err)
	require.Greater(t, second.Recovery, plan.Recovery)
	require.Zero(t, second.LostRecords)
	c.Start()
	c.WaitInSync(syncWithin)
	for _, ledger := range ledgers {
		ledger.Verify(t, c.Nodes...)
	}
}
