package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tailBytes of a process's log are shown when a test fails.
const tailBytes = 12 << 10

// Process is a child process with its output in a file. Its methods are safe for concurrent use.
type Process struct {
	name    string
	logPath string
	cmd     *exec.Cmd
	done    chan struct{}
}

// Command describes a child process.
type Command struct {
	// Name is what messages call it.
	Name string
	Path string
	Args []string
	// Env is added to what the child inherits.
	Env []string
	Dir string
	// LogPath is appended to.
	LogPath string
}

// Start starts a child, which is killed at the end of the test.
func Start(tb testing.TB, c Command) *Process {
	tb.Helper()
	p, err := start(c)
	if err != nil {
		tb.Fatalf("start %s: %v", c.Name, err)
	}
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() {
			tb.Logf("the log of %s ends:\n%s", p.name, p.LogTail())
		}
	})
	return p
}

func start(c Command) (*Process, error) {
	log, err := os.OpenFile(c.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	// The child ends by a signal of ours, never by a context.
	cmd := exec.CommandContext(context.Background(), c.Path, c.Args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = c.Dir
	cmd.Env = append(ChildEnv(), c.Env...)
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{name: c.Name, logPath: c.LogPath, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done) // Kill and Wait join here
		_ = cmd.Wait()
	}()
	return p, nil
}

// ChildEnv is this process's environment without what steers the tests or a server.
func ChildEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "STREAMHOUSE_") && !strings.HasPrefix(kv, "AWS_") {
			env = append(env, kv)
		}
	}
	return env
}

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// ExitCode is -1 for a process that was killed. Only after Done.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Kill ends the process as kill -9 does, with the children that it may have, and waits for its end.
func (p *Process) Kill() {
	if p.Running() {
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	}
	<-p.done
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Pause stops the process in mid-step; Resume lets it go on.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// Terminate sends SIGTERM and waits for the end.
func (p *Process) Terminate(within time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.Wait(within)
}

// Wait waits for the end, which must be a clean one.
func (p *Process) Wait(within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		return fmt.Errorf("%s still runs after %v", p.name, within)
	}
	if code := p.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with code %d: %s", p.name, code, p.cmd.ProcessState)
	}
	return nil
}

// Log returns all that the process wrote.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// LogTail returns the end of what the process wrote.
func (p *Process) LogTail() string {
	b := []byte(p.Log())
	if len(b) <= tailBytes {
		return string(b)
	}
	b = b[len(b)-tailBytes:]
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[i+1:]
	}
	return "…\n" + string(b)
}

// logDir is where a test's log files go; `go test -artifacts` keeps them.
func logDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.ArtifactDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	return dir
}
