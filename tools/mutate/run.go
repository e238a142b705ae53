package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// runner builds and runs tests. Safe for concurrent use.
type runner struct {
	root string
	// tmp is where what is built goes.
	tmp string
	// timeout bounds one run of a test, and killed is how much later its process is killed.
	timeout time.Duration
}

const killed = 30 * time.Second

// outcome is how a test ended that ran.
type outcome struct {
	failed bool
	took   time.Duration
	output string
}

var (
	errBuild  = errors.New("does not build")
	errNotRun = errors.New("the test did not run")
)

// build builds a package's test binary, with an overlay unless that is "".
func (r *runner) build(ctx context.Context, dir, overlay, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, ".")
	cmd.Dir = filepath.Join(r.root, dir)
	cmd.Env = environment(overlay)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %w: %w: %s", dir, errBuild, err, lastLines(string(out), 10))
	}
	return nil
}

// environment has the overlay for go commands that a test runs, too.
func environment(overlay string) []string {
	env := os.Environ()
	if overlay != "" {
		env = append(env, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	}
	return env
}

// run runs one test of a binary. The error says that it did not run; that it failed is no error.
func (r *runner) run(ctx context.Context, t test, overlay, binary string) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout+killed)
	defer cancel()
	args := append([]string{"-test.run=^" + t.name + "$", "-test.v", "-test.count=1", "-test.timeout=" + r.timeout.String()}, strings.Fields(t.args)...)
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = filepath.Join(r.root, t.dir)
	cmd.Env = environment(overlay)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what the test may have left behind
	}
	o := outcome{failed: err != nil, took: time.Since(began), output: out.String()}
	return o, ran(t, o)
}

// ran says whether it was this test that passed or failed.
func ran(t test, o outcome) error {
	began := strings.Contains(o.output, "=== RUN   "+t.name+"\n")
	passed := strings.Contains(o.output, "--- PASS: "+t.name+" ")
	failed := strings.Contains(o.output, "--- FAIL: "+t.name+" ") || strings.Contains(o.output, "panic: ") || strings.Contains(o.output, "fatal error: ")
	if !began || o.failed && !failed || !o.failed && !passed {
		return fmt.Errorf("%s: %w: %s", t, errNotRun, lastLines(o.output, 10))
	}
	return nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
