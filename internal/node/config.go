package node

import (
	"fmt"
	"net"
	"regexp"
	"time"
)

// Config has every setting of a node. Load reads it from flags, environment
// and a YAML file; settings has the flag, default, bounds and help of each field.
type Config struct {
	NodeID        string
	DataDir       string
	ClusterName   string
	Zone          string
	GRPCAddr      string
	HTTPAddr      string
	RaftAddr      string
	GossipAddr    string
	AdvertiseAddr string
	ObjectStore   string
	// Join has gossip addresses of other nodes.
	Join []string
	// BootstrapExpect is the number of fresh nodes that found a cluster; 0 never founds one.
	BootstrapExpect int
	Shards          int

	UploadBytes    int64
	UploadInterval time.Duration
	// GroupOffsetsRetention is for how long a consumer group without members is kept.
	GroupOffsetsRetention time.Duration

	CheckpointBytes int64
	LogRetainBytes  int64
	LogMaxBytes     int64
	DiskMinFree     int64

	CacheBytes       int64
	TailBytes        int64
	MaxInflightBytes int64

	MaxRecordBytes  int
	MaxRequestBytes int

	RaftHeartbeatTimeout time.Duration
	RaftElectionTimeout  time.Duration
	RaftLeaseTimeout     time.Duration

	ReplaceAfter time.Duration
	ObjectGrace  time.Duration

	ScrubBytesPerSecond int64
	ScrubInterval       time.Duration

	Insecure  bool
	LogFormat string
	LogLevel  string
}

// Units of sizes.
const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// Rules for names; the text is what an error says.
var (
	nodeIDRule = nameRule{regexp.MustCompile(`^[a-zA-Z0-9._-]{1,64}$`), "[a-zA-Z0-9._-]{1,64}"}
	zoneRule   = nameRule{regexp.MustCompile(`^[a-zA-Z0-9._-]{0,64}$`), "[a-zA-Z0-9._-]{0,64}"}
)

// setting is one line of the table of settings.
type setting struct {
	name  string
	value value
	def   string
	help  string
}

// settings is the table of all settings: name, where it goes with its bounds, default, help.
// An empty default of node-id, object-store, shards and bootstrap-expect is filled in by Load.
func (c *Config) settings() []setting {
	return []setting{
		{"node-id", name(&c.NodeID, nodeIDRule), "", "id of this node, unique in the cluster (default: the host's name)"},
		{"data-dir", text(&c.DataDir, "dir", true), "./data", "directory for this node's files"},
		{"cluster-name", name(&c.ClusterName, nodeIDRule), "streamhouse", "name of the cluster; nodes of another name are not heard"},
		{"zone", name(&c.Zone, zoneRule), "", "failure domain of this node; replicas of a shard are spread over zones"},

		{"grpc-addr", addr(&c.GRPCAddr), "127.0.0.1:50051", "listen here for gRPC clients"},
		{"http-addr", addr(&c.HTTPAddr), "127.0.0.1:8080", "listen here for /metrics, /health, /live, /ready and /debug/pprof/"},
		{"raft-addr", addr(&c.RaftAddr), "127.0.0.1:7000", "listen here for the other nodes: Raft and node-to-node calls"},
		{"gossip-addr", addr(&c.GossipAddr), "127.0.0.1:7946", "listen here for gossip, TCP and UDP"},
		{"advertise-addr", text(&c.AdvertiseAddr, "host", false), "", "host name or IP address under which others reach this node, where it is not the one it listens on"},
		{"insecure", boolean(&c.Insecure), "false", "allow addresses that are not loopback: there is no TLS and no authentication yet"},

		{"object-store", text(&c.ObjectStore, "url", false), "", "s3://BUCKET/PREFIX?region=…&endpoint=…&path_style=true or file:///DIR (default: file://<data-dir>/objects for one node)"},
		{"join", list(&c.Join), "", "gossip addresses of other nodes, separated by commas"},
		{"bootstrap-expect", number(&c.BootstrapExpect, 0, 1000), "", "found a new cluster once so many fresh nodes see each other; 0 never does (default: 1 without --join, else 0)"},
		{"shards", number(&c.Shards, 0, 1024), "0", "number of shards of a new cluster; 0 is 6, or two for each expected node where that is more"},

		{"upload-bytes", size(&c.UploadBytes, kib, 4*gib), "64MiB", "upload a shard's records to the object store once so many bytes wait"},
		{"upload-interval", duration(&c.UploadInterval, 10*time.Millisecond, 24*time.Hour), "1m", "upload a shard's records once the oldest waits so long"},
		{"group-offsets-retention", duration(&c.GroupOffsetsRetention, time.Second, 10*365*24*time.Hour), "168h", "delete a consumer group, with its committed offsets, that had no members and no commit for so long"},

		{"checkpoint-bytes", size(&c.CheckpointBytes, kib, tib), "256MiB", "cut a shard's local log once it is larger than this"},
		{"log-retain-bytes", size(&c.LogRetainBytes, 0, tib), "256MiB", "keep so much of a shard's local log, for slow followers and readers, when it is cut"},
		{"log-max-bytes", size(&c.LogMaxBytes, mib, 1024*tib), "8GiB", "refuse produce while this node's local logs together are larger than this"},
		{"disk-min-free", size(&c.DiskMinFree, 0, 1024*tib), "1GiB", "refuse produce while the disk of the data directory has less than this free"},

		{"cache-bytes", size(&c.CacheBytes, mib, 1024*tib), "256MiB", "memory for blocks read from the object store"},
		{"tail-bytes", size(&c.TailBytes, 0, 1024*tib), "256MiB", "memory for the newest records of all shards"},
		{"max-inflight-bytes", size(&c.MaxInflightBytes, mib, tib), "64MiB", "refuse requests while so many bytes of requests are being served"},

		{"max-record-bytes", intSize(&c.MaxRecordBytes, kib, 32*mib), "8MiB", "largest record that is taken"},
		{"max-request-bytes", intSize(&c.MaxRequestBytes, 64*kib, 48*mib), "16MiB", "largest request that is taken"},

		{"raft-heartbeat-timeout", duration(&c.RaftHeartbeatTimeout, 10*time.Millisecond, time.Minute), "1s", "a follower that hears nothing from its leader for this long calls an election"},
		{"raft-election-timeout", duration(&c.RaftElectionTimeout, 10*time.Millisecond, time.Minute), "1s", "a candidate waits so long for votes; at least the heartbeat timeout"},
		{"raft-lease-timeout", duration(&c.RaftLeaseTimeout, 5*time.Millisecond, time.Minute), "500ms", "a leader that does not reach a majority for this long steps down; at most the heartbeat timeout"},

		{"replace-after", duration(&c.ReplaceAfter, time.Second, 30*24*time.Hour), "10m", "move the replicas of a node that is away for this long to a spare node"},
		{"object-grace", duration(&c.ObjectGrace, time.Second, 365*24*time.Hour), "1h", "delete an object so long after nothing refers to it any more"},

		{"scrub-bytes-per-second", size(&c.ScrubBytesPerSecond, 0, tib), "8MiB", "read so much of logs and objects a second to check it; 0 never does"},
		{"scrub-interval", duration(&c.ScrubInterval, time.Second, 365*24*time.Hour), "168h", "time from the beginning of one check of all logs and objects to that of the next"},

		{"log-format", choice(&c.LogFormat, "text", "json"), "text", "format of the log"},
		{"log-level", choice(&c.LogLevel, "debug", "info", "warn", "error"), "info", "least level that is logged"},
	}
}

// ConfigError says which setting is wrong and how to mend it.
type ConfigError struct {
	// Setting is the setting as the user gave it: a flag, an environment variable, or a line of a file.
	Setting string
	// Problem is what is wrong with it, with the bound.
	Problem string
}

// Error is one line.
func (e *ConfigError) Error() string { return e.Setting + ": " + e.Problem }

func wrong(flagName, format string, args ...any) error {
	return &ConfigError{Setting: "--" + flagName, Problem: fmt.Sprintf(format, args...)}
}

// Validate returns a *ConfigError that names the first setting that is out of its bounds.
// It wants a Config as Load returns it, with nothing left to be filled in.
func (c *Config) Validate() error {
	for _, s := range c.settings() {
		if err := s.value.check(); err != nil {
			return wrong(s.name, "%s", err)
		}
	}
	if err := c.validateAddrs(); err != nil {
		return err
	}
	if err := c.validateCluster(); err != nil {
		return err
	}
	return c.validateTogether()
}

// listeners are the addresses that this node binds, by flag.
func (c *Config) listeners() []setting {
	var ls []setting
	for _, s := range c.settings() {
		if _, ok := s.value.(*addrValue); ok {
			ls = append(ls, s)
		}
	}
	return ls
}

func (c *Config) validateAddrs() error {
	if c.AdvertiseAddr != "" {
		if _, _, err := net.SplitHostPort(c.AdvertiseAddr); err == nil {
			return wrong("advertise-addr", "%q has a port: give a host name or an IP address alone, the ports are those of the listeners", c.AdvertiseAddr)
		}
		if isWildcard(c.AdvertiseAddr) {
			return wrong("advertise-addr", "%q is no address that others can dial", c.AdvertiseAddr)
		}
	}
	seen := make(map[string]string)
	for _, l := range c.listeners() {
		a := l.value.String()
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			return wrong(l.name, "%s", err)
		}
		if !isLoopback(host) && !c.Insecure {
			return wrong(l.name, "%q is not loopback; there is no TLS and no authentication yet, so add --insecure to open this node to a network, or listen on 127.0.0.1", a)
		}
		if isWildcard(host) && c.AdvertiseAddr == "" {
			return wrong(l.name, "%q does not say where others reach this node: add --advertise-addr HOST, or listen on one address", a)
		}
		if other, taken := seen[a]; taken && port != "0" {
			return wrong(l.name, "%q is taken by --%s: give each listener a port of its own", a, other)
		}
		seen[a] = l.name
	}
	return nil
}

func (c *Config) validateCluster() error {
	if c.ObjectStore == "" {
		return wrong("object-store", "is missing: give a URL s3://BUCKET/PREFIX or file:///DIR that all nodes reach")
	}
	if c.Shards == 0 {
		return wrong("shards", "is 0: must be 1 to 1024")
	}
	if c.BootstrapExpect == 0 && len(c.Join) == 0 {
		return wrong("bootstrap-expect", "is 0 without --join: this node would wait for ever; give --join HOST:PORT or --bootstrap-expect 1")
	}
	return nil
}

func (c *Config) validateTogether() error {
	switch {
	case c.LogMaxBytes <= c.CheckpointBytes:
		return wrong("log-max-bytes", "%s must be larger than --checkpoint-bytes %s, else produce is refused before the log is ever cut", formatSize(c.LogMaxBytes), formatSize(c.CheckpointBytes))
	case c.LogMaxBytes <= c.LogRetainBytes:
		return wrong("log-max-bytes", "%s must be larger than --log-retain-bytes %s, else produce is refused for ever", formatSize(c.LogMaxBytes), formatSize(c.LogRetainBytes))
	case c.MaxRequestBytes < c.MaxRecordBytes+requestOverheadBytes:
		return wrong("max-request-bytes", "%s must be at least --max-record-bytes %s and %s", formatSize(int64(c.MaxRequestBytes)), formatSize(int64(c.MaxRecordBytes)), formatSize(requestOverheadBytes))
	case c.MaxInflightBytes < int64(c.MaxRequestBytes):
		return wrong("max-inflight-bytes", "%s must be at least --max-request-bytes %s", formatSize(c.MaxInflightBytes), formatSize(int64(c.MaxRequestBytes)))
	case c.RaftElectionTimeout < c.RaftHeartbeatTimeout:
		return wrong("raft-election-timeout", "%s must be at least --raft-heartbeat-timeout %s", c.RaftElectionTimeout, c.RaftHeartbeatTimeout)
	case c.RaftLeaseTimeout > c.RaftHeartbeatTimeout:
		return wrong("raft-lease-timeout", "%s must be at most --raft-heartbeat-timeout %s", c.RaftLeaseTimeout, c.RaftHeartbeatTimeout)
	}
	return nil
}

// requestOverheadBytes is what a request with one record may have besides it.
const requestOverheadBytes = 4 * kib

// Advertised returns the address under which others reach a listener of this
// node that is bound to listenAddr: the host of --advertise-addr if there is
// one, and the port that is bound.
func (c *Config) Advertised(listenAddr string) string {
	_, port, err := net.SplitHostPort(listenAddr)
	if err != nil || c.AdvertiseAddr == "" {
		return listenAddr
	}
	return net.JoinHostPort(c.AdvertiseAddr, port)
}

// isLoopback is true for loopback addresses and for localhost. Other names are
// not looked up: what they mean may change.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func isWildcard(host string) bool {
	if host == "" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}
