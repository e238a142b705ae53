package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pollEvery   = 100 * time.Millisecond
	pollTimeout = 2 * time.Second
	tailBytes   = 2048
)

// Cluster is a set of child processes.
type Cluster struct {
	cfg   Config
	nodes []*Node
	http  http.Client

	children sync.WaitGroup
	ended    chan ending

	mu      sync.Mutex
	running map[*Node]*exec.Cmd
}

type ending struct {
	node *Node
	err  error
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Cluster{cfg: cfg, ended: make(chan ending, cfg.Nodes), running: make(map[*Node]*exec.Cmd)}, nil
}

// Run starts the nodes, calls ready when all are, and blocks until ctx ends; then
// it stops them. A node that ends by itself stays so, and the others go on. It
// returns an error when a node ends before all are ready, when all have ended,
// or when they had to be killed.
func (c *Cluster) Run(ctx context.Context, ready func(context.Context, []*Node) error) (err error) {
	// The kernel ties a child's end to the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	c.nodes = c.cfg.nodes()
	if err := c.cfg.prepare(ctx, c.nodes); err != nil {
		return err
	}
	c.nodes = c.cfg.nodes() // below the absolute directory
	defer func() { err = errors.Join(err, c.stop()) }()
	for _, n := range c.nodes {
		if err := c.start(context.WithoutCancel(ctx), n); err != nil {
			return err
		}
	}
	if err := c.waitReady(ctx); err != nil {
		return err
	}
	if err := ready(ctx, c.nodes); err != nil {
		return err
	}
	for left := len(c.nodes); left > 0; left-- {
		select {
		case <-ctx.Done():
			return nil
		case e := <-c.ended:
			c.cfg.Say("node %s (pid %d) has ended: %v", e.node.ID, e.node.PID, e.err)
		}
	}
	return errors.New("all nodes have ended; see " + c.cfg.Dir + "/*.log")
}

// start starts a node; the end of ctx kills it.
func (c *Cluster) start(ctx context.Context, n *Node) error {
	log, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("log of node %s: %w", n.ID, err)
	}
	cmd := exec.CommandContext(ctx, c.cfg.Binary, c.cfg.serverArgs(n, c.nodes)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	err = cmd.Start()
	if cerr := log.Close(); cerr != nil && err == nil { // the child has its own
		c.cfg.Say("close the log of node %s: %v", n.ID, cerr)
	}
	if err != nil {
		return fmt.Errorf("start node %s: %w", n.ID, err)
	}
	n.PID = cmd.Process.Pid
	c.mu.Lock()
	c.running[n] = cmd
	c.mu.Unlock()
	c.children.Go(func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		c.mu.Lock()
		delete(c.running, n)
		c.mu.Unlock()
		c.ended <- ending{n, err}
	})
	return nil
}

// waitReady waits until all nodes say that they are ready.
func (c *Cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ReadyTimeout)
	defer cancel()
	reasons := make(map[*Node]string)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		waiting := 0
		for _, n := range c.nodes {
			reason := c.askReady(ctx, n)
			if reason != "" {
				waiting++
			}
			if reason == "" || ctx.Err() == nil || reasons[n] == "" {
				reasons[n] = reason // but not that of a question that was cut short
			}
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case e := <-c.ended:
			return fmt.Errorf("node %s ended before the cluster was ready: %w\n%s", e.node.ID, e.err, tail(e.node.logPath))
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			var b strings.Builder
			for _, n := range c.nodes {
				if r := reasons[n]; r != "" {
					fmt.Fprintf(&b, "\n%s: %s (log: %s)", n.ID, r, n.logPath)
				}
			}
			return fmt.Errorf("the cluster was not ready after %s:%s", c.cfg.ReadyTimeout, b.String())
		}
	}
}

// askReady returns why a node is not ready, nothing where it is.
func (c *Cluster) askReady(ctx context.Context, n *Node) string {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTPAddr+"/ready", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "does not listen yet"
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	var body struct {
		Reason string `json:"reason"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, tailBytes)).Decode(&body); err != nil || body.Reason == "" {
		return resp.Status
	}
	return body.Reason
}

// stop ends all nodes that run, kills those that do not end in time, and waits for all.
func (c *Cluster) stop() error {
	defer c.http.CloseIdleConnections()
	c.signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		c.children.Wait()
		close(done)
	}()
	timer := time.NewTimer(c.cfg.StopTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	killed := c.signal(syscall.SIGKILL)
	<-done
	return fmt.Errorf("did not stop in %s and were killed: %s", c.cfg.StopTimeout, strings.Join(killed, ", "))
}

// signal signals the nodes that run and returns their ids.
func (c *Cluster) signal(s syscall.Signal) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, n := range c.nodes {
		if cmd, ok := c.running[n]; ok {
			ids = append(ids, n.ID)
			_ = cmd.Process.Signal(s) // it may have ended just now
		}
	}
	return ids
}

// tail returns the end of a file, as far as it can be read.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > tailBytes {
		b = b[len(b)-tailBytes:]
		if i := strings.IndexByte(string(b), '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return strings.TrimRight(string(b), "\n")
}
