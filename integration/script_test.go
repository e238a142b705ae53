package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// scriptWithin bounds how long a script waits for one thing.
const scriptWithin = 60 * time.Second

// Every command of the command line, as people and scripts use it, against a real cluster: testdata/script/*.txt.
func TestScripts(t *testing.T) {
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	bin := t.TempDir()
	require.NoError(t, os.Symlink(harness.Binary(t), filepath.Join(bin, "streamhouse")))
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.GRPCAddr)
	}
	testscript.Run(t, testscript.Params{
		Dir:      filepath.Join("testdata", "script"),
		Deadline: time.Now().Add(3 * time.Minute),
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("STREAMHOUSE_ADDR", strings.Join(addrs, ","))
			for _, kv := range harness.S3Env() {
				name, value, _ := strings.Cut(kv, "=")
				env.Setenv(name, value)
			}
			for _, name := range []string{"GRPC", "HTTP", "RAFT", "GOSSIP"} {
				_, port, err := net.SplitHostPort(harness.FreeAddr(t))
				if err != nil {
					return err
				}
				env.Setenv(name+"_PORT", port)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": scriptExits, "json": scriptJSON, "retry": scriptRetry, "untiljson": scriptUntilJSON,
			"store":  func(ts *testscript.TestScript, _ bool, args []string) { ts.Setenv(args[0], c.ObjectStore()) },
			"object": func(ts *testscript.TestScript, _ bool, args []string) { scriptObject(ts, c, args) },
		},
	})
}

// scriptExits is `exits CODE COMMAND...`: the command must end with just this code.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = e.ExitCode()
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("it ended with %d, not %s", code, want)
	}
}

// scriptJSON is `json PATH WANT`: what is at the path in the JSON of the last stdout. A path is such as shards.0.leader;
// len is a length.
func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json PATH WANT")
	}
	got, err := lookUp(ts.ReadFile("stdout"), args[0])
	if err != nil {
		ts.Fatalf("%v", err)
	}
	if (got == args[1]) == neg {
		ts.Fatalf("%s is %s", args[0], got)
	}
}

// lookUp returns the value at a path of a JSON text, as it stands there.
func lookUp(text, path string) (string, error) {
	var v any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return "", fmt.Errorf("%w: %s", err, text)
	}
	for key := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			inner, ok := in[key]
			if !ok {
				return "", fmt.Errorf("no %q of %s in %s", key, path, text)
			}
			v = inner
		case []any:
			if key == "len" {
				v = len(in)
				continue
			}
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(in) {
				return "", fmt.Errorf("no %q of %s in %s", key, path, text)
			}
			v = in[i]
		default:
			return "", fmt.Errorf("no %q of %s in %s", key, path, text)
		}
	}
	return fmt.Sprint(v), nil
}

// scriptRetry is `retry COMMAND...`: until the command succeeds.
func scriptRetry(ts *testscript.TestScript, _ bool, args []string) {
	poll(ts, func() error { return ts.Exec(args[0], args[1:]...) })
}

// scriptUntilJSON is `untiljson PATH WANT COMMAND...`: until the command's JSON has this.
func scriptUntilJSON(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: untiljson PATH WANT COMMAND...")
	}
	poll(ts, func() error {
		if err := ts.Exec(args[2], args[3:]...); err != nil {
			return err
		}
		got, err := lookUp(ts.ReadFile("stdout"), args[0])
		if err == nil && got != args[1] {
			err = fmt.Errorf("%s is %s", args[0], got)
		}
		return err
	})
}

func poll(ts *testscript.TestScript, fn func() error) {
	ctx, cancel := context.WithTimeout(context.Background(), scriptWithin)
	defer cancel()
	if err := harness.Poll(ctx, func(context.Context) error { return fn() }); err != nil {
		ts.Fatalf("%v", err)
	}
}

// scriptObject is `object VARIABLE`: the URL of an object that the cluster has uploaded.
func scriptObject(ts *testscript.TestScript, c *harness.Cluster, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: object VARIABLE")
	}
	poll(ts, func() error {
		objects, err := c.Gateway.Objects(context.Background(), harness.Bucket, "test")
		for key := range objects {
			if strings.HasSuffix(key, ".seg") {
				ts.Setenv(args[0], harness.StoreURL(c.Gateway.Addr(), harness.Bucket, key))
				return nil
			}
		}
		return errors.Join(errors.New("nothing is uploaded"), err)
	})
}
