package integration_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// refusedWithin bounds how long a start that can't succeed may take.
const refusedWithin = 45 * time.Second

// refusedStart is a server that must not start.
type refusedStart struct {
	name  string
	flags map[string]string
	env   []string
	// names are in the one line that says why.
	names []string
}

// runRefused starts a server with these flags and returns the line in which it said why it ended.
func runRefused(t *testing.T, flags map[string]string, env []string) string {
	t.Helper()
	all := map[string]string{
		"node-id": "stranger", "data-dir": filepath.Join(t.TempDir(), "data"),
		"grpc-addr": harness.FreeAddr(t), "http-addr": harness.FreeAddr(t), "raft-addr": harness.FreeAddr(t), "gossip-addr": harness.FreeAddr(t),
	}
	maps.Copy(all, flags)
	args := []string{"server"}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "--"+name+"="+all[name])
	}
	p := harness.Start(t, harness.Command{
		Name: "refused server", Path: harness.Binary(t), Args: args,
		Env: append(harness.S3Env(), env...), LogPath: filepath.Join(t.ArtifactDir(), "refused.log"),
	})
	harness.Eventually(t, refusedWithin, "the server ends", func(context.Context) error {
		if p.Running() {
			return fmt.Errorf("it runs, and said:\n%s", p.LogTail())
		}
		return nil
	})
	require.Positivef(t, p.ExitCode(), "it ends with an error: %s", p.LogTail())
	require.NotContains(t, p.Log(), "goroutine ", "it does not panic")
	why := ""
	for line := range strings.Lines(p.Log()) {
		if strings.HasPrefix(line, "streamhouse: ") {
			require.Emptyf(t, why, "it says why in one line: %s", p.LogTail())
			why = strings.TrimSpace(line)
		}
	}
	require.NotEmptyf(t, why, "it says why: %s", p.LogTail())
	return why
}

func checkRefused(t *testing.T, rows []refusedStart) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			line := runRefused(t, row.flags, row.env)
			t.Log(line)
			for _, name := range row.names {
				require.Contains(t, line, name)
			}
		})
	}
}

// Settings that are wrong stop the start with one line that names the setting.
func TestBadSettingsAreRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	config := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte("upload-byte: 1MiB\n"), 0o600))
	checkRefused(t, []refusedStart{
		{name: "unknown flag", flags: map[string]string{"colour": "red"}, names: []string{"--colour"}},
		{name: "bad size", flags: map[string]string{"upload-bytes": "many"}, names: []string{"--upload-bytes"}},
		{name: "size out of bounds", flags: map[string]string{"max-record-bytes": "1TiB"}, names: []string{"--max-record-bytes"}},
		{name: "bad node id", flags: map[string]string{"node-id": "a b"}, names: []string{"--node-id"}},
		{name: "unknown variable", env: []string{"STREAMHOUSE_COLOUR=red"}, names: []string{"STREAMHOUSE_COLOUR"}},
		{name: "unknown key in the file", flags: map[string]string{"config": config}, names: []string{"config.yaml", "upload-byte"}},
		{name: "unwritable directory", flags: map[string]string{"data-dir": filepath.Join(file, "data")}, names: []string{"--data-dir", file}},
		{name: "open address without --insecure", flags: map[string]string{"grpc-addr": "0.0.0.0:50051"}, names: []string{"--grpc-addr", "--insecure"}},
		{name: "several nodes without an object store", flags: map[string]string{"bootstrap-expect": "3", "join": "127.0.0.1:1"}, names: []string{"--object-store"}},
		{name: "object store of an unknown kind", flags: map[string]string{"object-store": "ftp://x/y"}, names: []string{"--object-store"}},
		{name: "object store without a bucket", flags: map[string]string{"object-store": "s3:///prefix?region=us-east-1"}, names: []string{"--object-store"}},
	})
}

// An object store that does not work stops a first start.
func TestBadObjectStoreIsRefused(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t)
	g.CreateBucket(t, harness.Bucket)
	readOnly := harness.StartProxy(t, g.Addr())
	readOnly.Inject(harness.Fault{Methods: []string{http.MethodPut, http.MethodPost}, Status: http.StatusForbidden})
	away := harness.FreeAddr(t)
	store := func(addr, bucket string) map[string]string {
		return map[string]string{"object-store": harness.StoreURL(addr, bucket, "test")}
	}
	checkRefused(t, []refusedStart{
		{name: "missing bucket", flags: store(g.Addr(), "not-there"), names: []string{"--object-store", "not-there"}},
		{name: "read-only bucket", flags: store(readOnly.Addr(), harness.Bucket), names: []string{"--object-store"}},
		{name: "nobody answers", flags: store(away, harness.Bucket), names: []string{"--object-store"}},
		{name: "wrong secret", flags: store(g.Addr(), harness.Bucket), env: []string{"AWS_SECRET_ACCESS_KEY=wrong"}, names: []string{"--object-store"}},
		{name: "a directory that is a file", flags: map[string]string{"object-store": "file:///dev/null/x"}, names: []string{"--object-store"}},
	})
}

// A stranger does not get into a cluster, and the cluster does not notice.
func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "p", Partitions: 2}, 5)
	n1 := c.Nodes[0]

	// Another cluster of the same name, in the same bucket under another prefix.
	otherStore := harness.StoreURL(c.Proxy.Addr(), harness.Bucket, "other")
	other := startAlone(t, otherStore)
	otherDir := other.dir
	other.stop(t)

	join := map[string]string{"join": n1.GossipAddr, "object-store": c.ObjectStore()}
	with := func(more map[string]string) map[string]string {
		flags := maps.Clone(join)
		maps.Copy(flags, more)
		return flags
	}
	checkRefused(t, []refusedStart{
		{name: "a second node with one id", flags: with(map[string]string{"node-id": "n1"}), names: []string{"--node-id", "n1"}},
		{name: "a second node on one data directory", flags: with(map[string]string{"data-dir": n1.Dir, "node-id": "n1"}), names: []string{"--data-dir"}},
		{name: "another node's data directory", flags: with(map[string]string{"data-dir": otherDir, "node-id": "someone"}), names: []string{"--node-id", "alone"}},
		{name: "another cluster's data directory", flags: with(map[string]string{"data-dir": otherDir, "node-id": "alone"}), names: []string{"cluster"}},
		{name: "another cluster's object store", flags: with(map[string]string{"object-store": otherStore}), names: []string{"--object-store"}},
		{
			name: "an empty object store", flags: with(map[string]string{"object-store": harness.StoreURL(c.Proxy.Addr(), harness.Bucket, "empty")}),
			names: []string{"--object-store"},
		},
		{
			name: "another cluster's name", flags: with(map[string]string{"cluster-name": "elsewhere", "data-dir": otherDir, "node-id": "alone"}),
			names: []string{"--cluster-name"},
		},
	})
	require.Len(t, c.Running(), 3)
	c.WaitInSync(syncWithin)
	ledger.Verify(t, c.Nodes...)
}

// alone is a cluster of one node beside the one under test.
type alone struct {
	dir  string
	proc *harness.Process
}

func startAlone(t *testing.T, store string) *alone {
	t.Helper()
	dir, httpAddr := filepath.Join(t.TempDir(), "alone"), harness.FreeAddr(t)
	p := harness.Start(t, harness.Command{
		Name: "alone", Path: harness.Binary(t), Env: harness.S3Env(), LogPath: filepath.Join(t.ArtifactDir(), "alone.log"),
		Args: []string{
			"server", "--node-id=alone", "--data-dir=" + dir, "--object-store=" + store, "--disk-min-free=0",
			"--grpc-addr=" + harness.FreeAddr(t), "--http-addr=" + httpAddr,
			"--raft-addr=" + harness.FreeAddr(t), "--gossip-addr=" + harness.FreeAddr(t),
		},
	})
	harness.Eventually(t, syncWithin, "the other cluster is ready", func(ctx context.Context) error {
		return harness.CheckURL(ctx, "http://"+httpAddr+"/ready")
	})
	return &alone{dir, p}
}

func (a *alone) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, a.proc.Terminate(30*time.Second))
}
