package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// clientID is what nodes show operators.
const clientID = "streamhouse-cli"

// maxRequestTimeout bounds one call of a command that goes on for longer.
const maxRequestTimeout = 30 * time.Second

// connection has the flags of a command that talks to a cluster.
type connection struct {
	addr    string
	format  output.Format
	timeout time.Duration
}

// flags adds the flags to a command.
func (c *connection) flags(cmd *cobra.Command, format output.Format, timeout time.Duration, timeoutHelp string) {
	c.format = format
	f := cmd.Flags()
	f.StringVar(&c.addr, "addr", "", "addresses of nodes, `host:port,...`; the next is used where one fails (default $STREAMHOUSE_ADDR, or "+client.DefaultAddr+")")
	f.VarP(&c.format, "output", "o", "table, json or value")
	f.DurationVar(&c.timeout, "timeout", timeout, timeoutHelp)
}

// call adds the flags of a command with one call.
func (c *connection) call(cmd *cobra.Command) *cobra.Command {
	c.flags(cmd, output.Table, 30*time.Second, "give up after this long")
	return cmd
}

// open returns a client of the cluster.
func (c *connection) open(a *app) (*client.Client, error) {
	addrs, err := parseAddrs(c.addr)
	if err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		return nil, usagef("--timeout %s: must be above 0", c.timeout)
	}
	return client.New(client.Config{
		Addrs: addrs, ClientID: clientID, RequestTimeout: min(c.timeout, maxRequestTimeout), Logger: slog.New(notices{a.say}),
	})
}

// with runs fn with a context that ends with the time-out.
func (c *connection) with(ctx context.Context, a *app, fn func(context.Context, *client.Admin) error) error {
	cl, err := c.open(a)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // all calls have returned
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return fn(ctx, client.NewAdmin(cl))
}

// parseAddrs reads --addr, or what stands for it.
func parseAddrs(flag string) ([]string, error) {
	if flag == "" {
		flag = os.Getenv("STREAMHOUSE_ADDR")
	}
	if flag == "" {
		return []string{client.DefaultAddr}, nil
	}
	var addrs []string
	for addr := range strings.SplitSeq(flag, ",") {
		if addr = strings.TrimSpace(addr); addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, usagef("--addr: %q must be HOST:PORT", addr)
		}
		addrs = append(addrs, addr)
	}
	if len(addrs) == 0 {
		return nil, usagef("--addr: is empty: give HOST:PORT of one or more nodes")
	}
	return addrs, nil
}

// notices tells people what the client tries again, in one line each.
type notices struct {
	say func(format string, args ...any)
}

// Enabled takes warnings.
func (notices) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle says the message and why.
func (n notices) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" || a.Key == "reason" {
			line += ": " + a.Value.String()
		}
		return true
	})
	n.say("%s", line)
	return nil
}

// WithAttrs and WithGroup make it a handler; the client uses neither.
func (n notices) WithAttrs([]slog.Attr) slog.Handler { return n }

// WithGroup returns the handler itself.
func (n notices) WithGroup(string) slog.Handler { return n }

// plain returns what a node said, without where the client asked.
func plain(err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e
	}
	return err
}

// unavailable says that nobody could answer for now: a leader may be missing, or all nodes.
func unavailable(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return errors.Is(err, context.DeadlineExceeded)
	}
	return e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded || e.Code == codes.ResourceExhausted
}
