package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

var updateGolden = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) {
	flag.Parse()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "STREAMHOUSE_") {
			_ = os.Unsetenv(name) // it is for the machine that tests
		}
	}
	goleak.VerifyTestMain(m)
}

// result is what one command line did.
type result struct {
	code           int
	stdout, stderr string
}

func runWith(ctx context.Context, stdin string, args ...string) result {
	var out, errs bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &out, &errs)
	return result{code, out.String(), errs.String()}
}

// shell runs command lines against a cluster in memory.
type shell struct {
	t       *testing.T
	cluster *clienttest.Cluster
	node    *clienttest.Node
}

func newShell(t *testing.T) *shell {
	t.Helper()
	s := &shell{t: t, cluster: clienttest.New()}
	s.node = s.cluster.Start(t)
	t.Setenv("STREAMHOUSE_ADDR", s.node.Addr())
	return s
}

func (s *shell) run(stdin string, args ...string) result {
	s.t.Helper()
	return runWith(s.t.Context(), stdin, args...)
}

// ok runs a command line that must succeed and returns its stdout.
func (s *shell) ok(stdin string, args ...string) string {
	s.t.Helper()
	r := s.run(stdin, args...)
	require.Equal(s.t, exitDone, r.code, r.stderr)
	return r.stdout
}

// write writes a record of the beginning of 2026.
func (s *shell) write(topic string, r client.Record) {
	s.t.Helper()
	c, err := client.New(client.Config{Addrs: []string{s.node.Addr()}})
	require.NoError(s.t, err)
	p, err := client.NewProducer(c, client.ProducerConfig{})
	require.NoError(s.t, err)
	r.Topic, r.Timestamp = topic, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	require.NoError(s.t, p.ProduceSync(s.t.Context(), &r))
	require.NoError(s.t, p.Close(s.t.Context()))
	require.NoError(s.t, c.Close())
}

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateGolden {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run: go test ./cmd/streamhouse -update")
}

// Help is what scripts and manuals quote: it changes on purpose only.
func TestHelp(t *testing.T) {
	a := &app{}
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		name := strings.Join(append([]string{"streamhouse"}, path...), "-")
		t.Run(name, func(t *testing.T) {
			r := runWith(t.Context(), "", append(path, "--help")...)
			require.Equal(t, exitDone, r.code)
			require.Empty(t, r.stderr)
			golden(t, "help/"+name+".txt", r.stdout)
		})
		for _, c := range cmd.Commands() {
			if !c.Hidden && c.Name() != "help" {
				walk(c, append(append([]string{}, path...), c.Name()))
			}
		}
	}
	walk(a.rootCommand(), nil)
}

// --help alone must be enough.
func TestHelpIsComplete(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		require.Regexp(t, `^[A-Z][^\n]*[^.]$`, cmd.Short, cmd.CommandPath())
		require.GreaterOrEqual(t, len(cmd.Long), len(cmd.Short), "%s says what it does", cmd.CommandPath())
		require.Contains(t, cmd.Example, "streamhouse ", cmd.CommandPath())
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			require.LessOrEqual(t, len(line), 110, "%s: %s", cmd.CommandPath(), line)
		}
		for _, c := range cmd.Commands() {
			if c.Name() != "help" {
				walk(c)
			}
		}
	}
	walk((&app{}).rootCommand())
}

func TestUsageErrors(t *testing.T) {
	for line, want := range map[string]string{
		"frobnicate":                          `streamhouse: unknown command "frobnicate" for "streamhouse"` + "\nsee: streamhouse --help\n",
		"topic frobnicate":                    `streamhouse: unknown command "frobnicate" for "streamhouse topic"` + "\nsee: streamhouse topic --help\n",
		"topic create":                        "streamhouse: NAME is missing: streamhouse topic create NAME [flags]\nsee: streamhouse topic create --help\n",
		"topic list x":                        `streamhouse: unknown argument "x": streamhouse topic list [flags]` + "\nsee: streamhouse topic list --help\n",
		"topic list --frob":                   "streamhouse: unknown flag: --frob\nsee: streamhouse topic list --help\n",
		"topic list -o xml":                   `streamhouse: invalid argument "xml" for "-o, --output" flag: must be table, json or value` + "\nsee: streamhouse topic list --help\n",
		"produce t --key a --key-separator b": "streamhouse: if any flags in the group [key key-separator] are set none of the others can be; [key key-separator] were all set\nsee: streamhouse produce --help\n",
		"server --shards many":                `streamhouse: --shards: "many" must be a number from 0 to 1024` + "\nsee: streamhouse server --help\n",
		"server --config /no/such.yaml":       "streamhouse: --config: open /no/such.yaml: no such file or directory\n",
	} {
		t.Run(line, func(t *testing.T) {
			r := runWith(t.Context(), "", strings.Fields(line)...)
			require.NotEqual(t, exitDone, r.code)
			require.Equal(t, want, r.stderr)
			require.Empty(t, r.stdout)
		})
	}
}

func TestServerTakesSettingsFromEverywhere(t *testing.T) {
	t.Setenv("STREAMHOUSE_UPLOAD_BYTES", "12 parrots")
	r := runWith(t.Context(), "", "server", "--node-id", "n1")
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, `streamhouse: STREAMHOUSE_UPLOAD_BYTES: "12 parrots" must be a size`)
	r = runWith(t.Context(), "", "server", "--upload-bytes", "1")
	require.Contains(t, r.stderr, "streamhouse: --upload-bytes: 1B must be 1KiB to 4GiB")
}

func TestVersion(t *testing.T) {
	r := runWith(t.Context(), "", "version")
	require.Equal(t, exitDone, r.code)
	require.Regexp(t, `^streamhouse \S+ \(revision \S+, go1\S+, \w+/\w+\)\n$`, r.stdout)
	r = runWith(t.Context(), "", "version", "-o", "json")
	require.Contains(t, r.stdout, `"version": `)
}

func TestNobodyIsThere(t *testing.T) {
	s := newShell(t)
	s.node.Kill()
	r := s.run("", "topic", "list")
	require.Equal(t, result{exitFailed, "", "streamhouse: cannot reach " + s.node.Addr() + ": connect: connection refused\n"}, r)
}

func TestInterrupted(t *testing.T) {
	s := newShell(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.node.Before = func(string) error { cancel(); return nil }
	r := runWith(ctx, "", "topic", "list")
	if r.code != exitDone { // the answer may be faster
		require.Equal(t, result{exitInterrupted, "", "interrupted\n"}, r)
	}
}

// refusal is the result of a line that fails with a text. Behind "usage: " it stands for a mistake in the line itself.
func refusal(line, text string) result {
	wrong, ok := strings.CutPrefix(text, "usage: ")
	if !ok {
		return result{exitFailed, "", "streamhouse: " + text + "\n"}
	}
	path := commandPath((&app{}).rootCommand(), strings.Fields(line))
	return result{exitUsage, "", "streamhouse: " + wrong + "\nsee: " + path + " --help\n"}
}
