package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
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
	stdin  io.Reader
	stdout output.Pipe
	stderr io.Writer
	// style is for what goes to stdout.
	style output.Style
	// started is set once a command runs; an error before that is one of usage.
	started bool
	// logFormat and nodeID are a server's, once they are known. logged is set once its own log has told of its end.
	logFormat, nodeID string
	logged            bool
	// saying is held while a line is written to stderr.
	saying sync.Mutex
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: output.Pipe{W: stdout}, stderr: stderr, style: output.StyleFor(stdout)}
	root := a.rootCommand() //nolint:contextcheck // cobra hands the context to each command
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(a.stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil || output.NobodyReads(err) {
		return exitDone
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		a.say("interrupted")
		return exitInterrupted
	}
	_, setting := errors.AsType[*node.ConfigError](err)
	_, wrong := errors.AsType[*usageError](err)
	misused := setting || wrong || !a.started
	switch path := commandPath(root, args); {
	case a.logged:
	case path == serverPath && a.logsJSON(args):
		a.sayJSON(err)
	default:
		a.say("streamhouse: %v", err)
		if misused {
			a.say("see: %s --help", path)
		}
	}
	if misused {
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
		`Run nodes, and use a cluster: topics, records, consumer groups, and the nodes themselves.

Results go to stdout and words to stderr. The exit code is 0 where all was done, 1 where it
failed, 2 where the command line is wrong, and 130 after an interrupt.`,
		`  streamhouse dev                                       # three nodes on this machine
  streamhouse topic create events --partitions 3
  echo hello | streamhouse produce events
  streamhouse consume events
  streamhouse cluster status`,
		a.serverCommand(), a.devCommand(),
		a.topicCommand(), a.produceCommand(), a.consumeCommand(), a.groupCommand(),
		a.clusterCommand(), a.healthCommand(), a.segmentCommand(), a.benchCommand(), a.versionCommand(), a.completionCommand(),
	)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	root.CompletionOptions.DisableDefaultCmd = true
	a.complete(root)
	return root
}

// say writes a line of words to stderr.
func (a *app) say(format string, args ...any) {
	a.saying.Lock()
	defer a.saying.Unlock()
	_, _ = fmt.Fprintf(a.stderr, format+"\n", args...) // there is nowhere else to say so
}

// rows returns an empty table.
func (a *app) rows(titles ...string) *output.Rows {
	return &output.Rows{Titles: titles, Style: a.style}
}

// do wraps what a command does.
func (a *app) do(fn func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return fn(cmd.Context(), cmd, args)
	}
}

// group returns a command that only has others below it.
func group(use, short, long, example string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:     use,
		Short:   short,
		Long:    long,
		Example: example,
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

// usageError is a mistake in a command line that only the command itself finds.
type usageError struct{ text string }

// Error says what is wrong.
func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

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
