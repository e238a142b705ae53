package node

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var updateDocs = flag.Bool("update-docs", false, "write golden files anew")

func loadWith(t *testing.T, flags map[string]string, environ []string, yaml string) (Config, error) {
	t.Helper()
	src := Sources{Flags: flags, Environ: environ}
	if yaml != "" {
		src.File = filepath.Join(t.TempDir(), "node.yaml")
		require.NoError(t, os.WriteFile(src.File, []byte(yaml), 0o600))
	}
	return Load(src)
}

func TestLoadDefaults(t *testing.T) {
	c, err := loadWith(t, map[string]string{"node-id": "n1"}, nil, "")
	require.NoError(t, err)
	store, err := filepath.Abs("data/objects")
	require.NoError(t, err)
	require.Equal(t, Config{
		NodeID: "n1", DataDir: "./data", ClusterName: "streamhouse",
		GRPCAddr: "127.0.0.1:50051", HTTPAddr: "127.0.0.1:8080", RaftAddr: "127.0.0.1:7000", GossipAddr: "127.0.0.1:7946",
		ObjectStore: "file://" + store, BootstrapExpect: 1, Shards: 6,
		UploadBytes: 64 << 20, UploadInterval: time.Minute, GroupOffsetsRetention: 7 * 24 * time.Hour,
		CheckpointBytes: 256 << 20, LogRetainBytes: 256 << 20, LogMaxBytes: 8 << 30, DiskMinFree: 1 << 30,
		CacheBytes: 256 << 20, TailBytes: 256 << 20, MaxInflightBytes: 64 << 20,
		MaxRecordBytes: 8 << 20, MaxRequestBytes: 16 << 20,
		RaftHeartbeatTimeout: time.Second, RaftElectionTimeout: time.Second, RaftLeaseTimeout: 500 * time.Millisecond,
		ReplaceAfter: 10 * time.Minute, ObjectGrace: time.Hour,
		ScrubBytesPerSecond: 8 << 20, ScrubInterval: 7 * 24 * time.Hour,
		LogFormat: "text", LogLevel: "info",
	}, c)
}

func TestLoadPrecedence(t *testing.T) {
	flags := map[string]string{"zone": "from-flag"}
	env := []string{"STREAMHOUSE_ZONE=from-env", "STREAMHOUSE_UPLOAD_BYTES=2MiB", "STREAMHOUSE_NODE_ID=", "PATH=/bin"}
	yaml := "zone: from-file\nupload-bytes: 3MiB\nupload-interval: 5s\nnode-id: n7\n"
	c, err := loadWith(t, flags, env, yaml)
	require.NoError(t, err)
	require.Equal(t, "from-flag", c.Zone)
	require.EqualValues(t, 2<<20, c.UploadBytes)
	require.Equal(t, 5*time.Second, c.UploadInterval)
	require.Equal(t, "n7", c.NodeID, "an empty variable is as good as absent")
	require.EqualValues(t, 256<<20, c.CacheBytes)
}

func TestLoadReadsEveryFormOfASetting(t *testing.T) {
	store := "file:///tmp/store"
	for name, tc := range map[string]struct {
		flags map[string]string
		env   []string
		yaml  string
		want  func(*testing.T, Config)
	}{
		"list in YAML": {yaml: "join: [a:1, 'b:2']\nobject-store: " + store, want: func(t *testing.T, c Config) {
			t.Helper()
			require.Equal(t, []string{"a:1", "b:2"}, c.Join)
			require.Zero(t, c.BootstrapExpect, "a node that joins does not found a cluster")
		}},
		"list with commas": {env: []string{"STREAMHOUSE_JOIN=a:1, b:2,"}, flags: map[string]string{"object-store": store}, want: func(t *testing.T, c Config) {
			t.Helper()
			require.Equal(t, []string{"a:1", "b:2"}, c.Join)
		}},
		"plain log variables": {env: []string{"LOG_FORMAT=json", "LOG_LEVEL=debug", "STREAMHOUSE_LOG_LEVEL=warn"}, want: func(t *testing.T, c Config) {
			t.Helper()
			require.Equal(t, "json", c.LogFormat)
			require.Equal(t, "warn", c.LogLevel)
		}},
		"shards of a large cluster": {flags: map[string]string{"bootstrap-expect": "5", "object-store": store}, want: func(t *testing.T, c Config) {
			t.Helper()
			require.Equal(t, 10, c.Shards)
		}},
		"numbers without a unit": {yaml: "log-max-bytes: 1073741824\n", want: func(t *testing.T, c Config) {
			t.Helper()
			require.EqualValues(t, 1<<30, c.LogMaxBytes)
		}},
		"open to a network": {flags: map[string]string{"insecure": "true", "grpc-addr": ":50051", "advertise-addr": "n1.example"}, want: func(t *testing.T, c Config) {
			t.Helper()
			require.Equal(t, "n1.example:50051", c.Advertised(c.GRPCAddr))
		}},
		"empty file": {yaml: "# nothing yet\n", want: func(t *testing.T, c Config) {
			t.Helper()
			require.Equal(t, "text", c.LogFormat)
		}},
		"variables of others": {
			env: []string{"STREAMHOUSE_ADDR=a:1", "STREAMHOUSE_PORT=tcp://10.0.0.1:50051", "STREAMHOUSE_SERVICE_HOST=10.0.0.1", "STREAMHOUSE_PORT_50051_TCP_ADDR=10.0.0.1", "STREAMHOUSE_HEADLESS_SERVICE_PORT_GRPC=50051"},
			want: func(t *testing.T, c Config) {
				t.Helper()
				require.Equal(t, "127.0.0.1:50051", c.GRPCAddr)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := loadWith(t, tc.flags, tc.env, tc.yaml)
			require.NoError(t, err)
			tc.want(t, c)
		})
	}
}

// refusals has one line for each way to get a setting wrong: what is given, and the error.
var refusals = []struct {
	flags string // name=value, separated by spaces
	want  string
}{
	{"node-id=a/b", `--node-id: "a/b" must match [a-zA-Z0-9._-]{1,64}`},
	{"data-dir=", `--data-dir: must not be empty`},
	{"cluster-name=", `--cluster-name: "" must match [a-zA-Z0-9._-]{1,64}`},
	{"zone=a,b", `--zone: "a,b" must match [a-zA-Z0-9._-]{0,64}`},
	{"grpc-addr=localhost", `--grpc-addr: "localhost" must be HOST:PORT`},
	{"http-addr=localhost:99999", `--http-addr: "localhost:99999" has the port "99999": must be 0 to 65535`},
	{"grpc-addr=10.0.0.1:1", `--grpc-addr: "10.0.0.1:1" is not loopback; there is no TLS and no authentication yet, so add --insecure to open this node to a network, or listen on 127.0.0.1`},
	{"raft-addr=:7000", `--raft-addr: ":7000" is not loopback; there is no TLS and no authentication yet, so add --insecure to open this node to a network, or listen on 127.0.0.1`},
	{"raft-addr=n1.example:7000", `--raft-addr: "n1.example:7000" is not loopback; there is no TLS and no authentication yet, so add --insecure to open this node to a network, or listen on 127.0.0.1`},
	{"insecure=true raft-addr=0.0.0.0:7000", `--raft-addr: "0.0.0.0:7000" does not say where others reach this node: add --advertise-addr HOST, or listen on one address`},
	{"advertise-addr=n1:7000", `--advertise-addr: "n1:7000" has a port: give a host name or an IP address alone, the ports are those of the listeners`},
	{"advertise-addr=0.0.0.0", `--advertise-addr: "0.0.0.0" is no address that others can dial`},
	{"raft-addr=127.0.0.1:8080", `--raft-addr: "127.0.0.1:8080" is taken by --http-addr: give each listener a port of its own`},
	{"join=n2", `--join: "n2" must be HOST:PORT`},
	{"join=n2:7946", `--object-store: is missing: more than one node needs one that all of them reach, s3://BUCKET/PREFIX?region=… or file:///DIR`},
	{"bootstrap-expect=3", `--object-store: is missing: more than one node needs one that all of them reach, s3://BUCKET/PREFIX?region=… or file:///DIR`},
	{"bootstrap-expect=0", `--bootstrap-expect: is 0 without --join: this node would wait for ever; give --join HOST:PORT or --bootstrap-expect 1`},
	{"bootstrap-expect=-1", `--bootstrap-expect: -1 must be 0 to 1000`},
	{"shards=1025", `--shards: 1025 must be 0 to 1024`},
	{"shards=six", `--shards: "six" must be a number from 0 to 1024`},
	{"insecure=perhaps", `--insecure: "perhaps" must be true or false`},
	{"upload-bytes=64M", `--upload-bytes: "64M" must be a size in bytes such as 65536, 64MiB or 8GiB`},
	{"upload-bytes=-1", `--upload-bytes: "-1" must be a size in bytes such as 65536, 64MiB or 8GiB`},
	{"upload-bytes=1", `--upload-bytes: 1B must be 1KiB to 4GiB`},
	{"upload-interval=1", `--upload-interval: "1" must be a duration such as 500ms, 10s or 1h30m`},
	{"upload-interval=1ms", `--upload-interval: 1ms must be 10ms to 24h0m0s`},
	{"log-max-bytes=256MiB", `--log-max-bytes: 256MiB must be larger than --checkpoint-bytes 256MiB, else produce is refused before the log is ever cut`},
	{"log-max-bytes=100MiB checkpoint-bytes=1MiB", `--log-max-bytes: 100MiB must be larger than --log-retain-bytes 256MiB, else produce is refused for ever`},
	{"max-record-bytes=16MiB", `--max-request-bytes: 16MiB must be at least --max-record-bytes 16MiB and 4KiB`},
	{"max-record-bytes=33MiB", `--max-record-bytes: 33MiB must be 1KiB to 32MiB`},
	{"max-inflight-bytes=2MiB", `--max-inflight-bytes: 2MiB must be at least --max-request-bytes 16MiB`},
	{"raft-election-timeout=500ms", `--raft-election-timeout: 500ms must be at least --raft-heartbeat-timeout 1s`},
	{"raft-lease-timeout=2s", `--raft-lease-timeout: 2s must be at most --raft-heartbeat-timeout 1s`},
	{"replace-after=0s", `--replace-after: 0s must be 1s to 720h0m0s`},
	{"log-format=xml", `--log-format: "xml" must be one of text, json`},
	{"log-level=loud", `--log-level: "loud" must be one of debug, info, warn, error`},
}

func TestLoadRefusesFlags(t *testing.T) {
	for _, tc := range refusals {
		t.Run(tc.flags, func(t *testing.T) {
			flags := make(map[string]string)
			for kv := range strings.FieldsSeq(tc.flags) {
				k, v, _ := strings.Cut(kv, "=")
				flags[k] = v
			}
			_, err := loadWith(t, flags, nil, "")
			require.EqualError(t, err, tc.want)
			var ce *ConfigError
			require.ErrorAs(t, err, &ce)
		})
	}
}

func TestLoadRefusesEnvironment(t *testing.T) {
	for kv, want := range map[string]string{
		"STREAMHOUSE_NODEID=n1":      `STREAMHOUSE_NODEID: is not a setting: mend its name or unset it (did you mean STREAMHOUSE_NODE_ID?)`,
		"STREAMHOUSE_SOMETHING=1":    `STREAMHOUSE_SOMETHING: is not a setting: mend its name or unset it`,
		"STREAMHOUSE_SHARDS=x":       `STREAMHOUSE_SHARDS: "x" must be a number from 0 to 1024`,
		"LOG_LEVEL=chatty":           `LOG_LEVEL: "chatty" must be one of debug, info, warn, error`,
		"STREAMHOUSE_CONFIG=/no/f.y": `--config: open /no/f.y: no such file or directory`,
	} {
		_, err := loadWith(t, nil, []string{kv}, "")
		require.EqualError(t, err, want)
	}
}

func TestLoadRefusesFile(t *testing.T) {
	for yaml, want := range map[string]string{
		"zone: a\nnode_id: n1\n":     `node.yaml:2: node_id is not a setting: mend its name or remove it (did you mean node-id?)`,
		"zone: a\nzone: b\n":         `node.yaml:2: zone is set twice`,
		"- a\n":                      `node.yaml:1: must be a mapping of settings, such as node-id: n1`,
		"node-id: {a: b}\n":          `node.yaml:1: node-id: must be a plain value`,
		"zone:\n":                    `node.yaml:1: zone: must be a plain value`,
		"join: [[a]]\n":              `node.yaml:1: join: must be a list of plain values`,
		"\nupload-bytes: much\n":     `node.yaml:2: upload-bytes: "much" must be a size in bytes such as 65536, 64MiB or 8GiB`,
		"zone: a\n---\nzone: b\n":    `node.yaml: has more than one YAML document`,
		"zone: \"a\nnode-id: 'b'\n ": `node.yaml: yaml: `,
	} {
		_, err := loadWith(t, nil, nil, yaml)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestNodeIDFromHost(t *testing.T) {
	for host, want := range map[string]string{
		"web-1.example.com":     "web-1.example.com",
		"my host (old)":         "my-host-old",
		"":                      "node",
		"äöü":                   "node",
		strings.Repeat("x", 99): strings.Repeat("x", 64),
	} {
		require.Equal(t, want, nodeIDFromHost(host))
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "1": 1, "7B": 7, "64KiB": 64 << 10, "64 MiB": 64 << 20, "8GiB": 8 << 30, "2TiB": 2 << 40, "100MB": 1e8, "9223372036854775807": 1<<63 - 1} {
		n, err := parseSize(s)
		require.NoError(t, err, s)
		require.Equal(t, want, n, s)
	}
	for _, s := range []string{"", "B", "-1", "1.5GiB", "64M", "1e3", "9223372036854775808", "8388608TiB", "１"} {
		_, err := parseSize(s)
		require.Error(t, err, s)
	}
	for n, want := range map[int64]string{0: "0B", 1: "1B", 1 << 10: "1KiB", 1536: "1536B", 64 << 20: "64MiB", 3 << 30: "3GiB"} {
		require.Equal(t, want, formatSize(n))
	}
}

// Every field of Config is in the table once, and every default is within its bounds.
func TestTableIsComplete(t *testing.T) {
	c := defaults()
	var pointers []uintptr
	for _, s := range c.settings() {
		v := reflect.ValueOf(s.value).Elem()
		pointers = append(pointers, v.FieldByName("p").Pointer())
		require.NotEmpty(t, s.help, s.name)
	}
	rv := reflect.ValueOf(&c).Elem()
	require.Len(t, pointers, rv.NumField())
	for i := range rv.NumField() {
		require.Contains(t, pointers, rv.Field(i).Addr().Pointer(), rv.Type().Field(i).Name)
	}
}

// docs/configuration.md is made from the table: go test ./internal/node -run TestDocumentation -update-docs.
func TestDocumentation(t *testing.T) {
	const (
		path  = "../../docs/configuration.md"
		begin = "<!-- settings: made by go test ./internal/node -run TestDocumentation -update-docs -->\n"
		end   = "<!-- end of settings -->\n"
	)
	old, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := bytes.Cut(old, []byte(begin))
	require.True(t, ok, "no line %q", begin)
	_, tail, ok := bytes.Cut(rest, []byte(end))
	require.True(t, ok, "no line %q", end)

	var b bytes.Buffer
	b.Write(head)
	b.WriteString(begin)
	b.WriteString("| flag, YAML key | environment | value | default | what it does |\n| --- | --- | --- | --- | --- |\n")
	for _, s := range Settings() {
		val := s.Kind
		if s.Bounds != "" {
			val += ": " + s.Bounds
		}
		def := s.Default
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s | %s |\n", s.Name, strings.Join(s.Env, "`, `"), val, def, strings.ReplaceAll(s.Help, "<data-dir>", "`<data-dir>`"))
	}
	b.WriteString(end)
	b.Write(tail)
	if *updateDocs {
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
		return
	}
	require.Equal(t, b.String(), string(old), "run: go test ./internal/node -run TestDocumentation -update-docs")
}

// The configurations that deploy/ offers are valid.
func TestDeployedConfigurations(t *testing.T) {
	paths, err := filepath.Glob("../../deploy/three-nodes/*.yaml")
	require.NoError(t, err)
	require.Len(t, paths, 3)
	for i, path := range paths {
		c, err := Load(Sources{File: path})
		require.NoError(t, err, path)
		require.Equal(t, fmt.Sprintf("n%d", i+1), c.NodeID)
		require.Len(t, c.Join, 2)
		require.Equal(t, 3, c.BootstrapExpect)
	}
}
