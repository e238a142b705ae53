package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
	"github.com/streamhouse/streamhouse/internal/node"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// app is what all commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// started is set once a command runs; an error before that is one of usage.
	started bool
}

// client has the flags of a command that talks to a cluster.
type client struct {
	addr    string
	format  output.Format
	timeout time.Duration
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCommand() //nolint:contextcheck // cobra hands the context to each command
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		a.say("interrupted")
		return exitInterrupted
	}
	a.say("streamhouse: %v", err)
	if _, bad := errors.AsType[*node.ConfigError](err); bad || !a.started {
		a.say("see: %s --help", commandPath(root, args))
		return exitUsage
	}
	return exitFailed
}

// commandPath returns the names of the command that args mean.
func commandPath(root *cobra.Command, args []string) string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return root.Name()
	}
	return cmd.CommandPath()
}

func (a *app) rootCommand() *cobra.Command {
	root := group("streamhouse", "A durable log service: Kafka-like topics, replicated by Raft, with their history in S3",
		a.serverCommand(), a.devCommand(),
		a.topicCommand(), a.produceCommand(), a.consumeCommand(), a.groupCommand(),
		a.clusterCommand(), a.segmentCommand(), a.versionCommand(),
	)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	return root
}

// say writes a line of words to stderr.
func (a *app) say(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, format+"\n", args...) // there is nowhere else to say so
}

// do wraps what a command does.
func (a *app) do(fn func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return fn(cmd.Context(), cmd, args)
	}
}

// group returns a command that only has others below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(below...)
	return c
}

// exactly wants one argument for each name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s is missing: %s", names[len(args)], cmd.UseLine())
		}
		if len(args) > len(names) {
			return fmt.Errorf("unknown argument %q: %s", args[len(names)], cmd.UseLine())
		}
		return nil
	}
}

// flags adds the flags of a client to a command.
func (c *client) flags(cmd *cobra.Command, format output.Format, timeout time.Duration, timeoutHelp string) {
	c.format = format
	f := cmd.Flags()
	f.StringVar(&c.addr, "addr", "", "addresses of nodes, `host:port,...`; the next is used where one fails (default $STREAMHOUSE_ADDR, or "+remote.DefaultAddr+")")
	f.VarP(&c.format, "output", "o", "table, json or value")
	f.DurationVar(&c.timeout, "timeout", timeout, timeoutHelp)
}

// call adds the flags of a command with one call.
func (c *client) call(cmd *cobra.Command) *cobra.Command {
	c.flags(cmd, output.Table, 30*time.Second, "give up after this long")
	return cmd
}

// open returns the nodes to talk to.
func (c *client) open(a *app) (*remote.Pool, error) {
	addr := c.addr
	if addr == "" {
		addr = os.Getenv("STREAMHOUSE_ADDR")
	}
	if addr == "" {
		addr = remote.DefaultAddr
	}
	pool, err := remote.Open(addr)
	if err != nil {
		return nil, err
	}
	pool.Notice = func(err error) { a.say("still trying: %v", err) }
	return pool, nil
}

// with runs fn with a pool and a context that ends with the time-out.
func (c *client) with(ctx context.Context, a *app, fn func(context.Context, *remote.Pool) error) error {
	pool, err := c.open(a)
	if err != nil {
		return err
	}
	defer func() { _ = pool.Close() }() // all calls have returned
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	return fn(ctx, pool)
}
