package main

import (
	"cmp"
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/streamhouse/streamhouse/internal/node"
	"github.com/streamhouse/streamhouse/observability"
)

// settingFlag is the text of a setting on the command line; node.Load parses it.
type settingFlag struct {
	text string
	kind string
}

// String, Set and Type make it a flag.
func (f *settingFlag) String() string     { return f.text }
func (f *settingFlag) Set(s string) error { f.text = s; return nil }

// Type is the word that help shows.
func (f *settingFlag) Type() string { return f.kind }

func (a *app) serverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a node",
		Long: `Run a node until SIGTERM or SIGINT.

Every setting can be given as a flag, as an environment variable STREAMHOUSE_<NAME>,
or in a YAML file (--config); a flag is stronger than the environment, and that than
the file. The log goes to stderr.`,
		Example: `  streamhouse server --data-dir /var/lib/streamhouse
  streamhouse server --config /etc/streamhouse/node.yaml --log-format json`,
		Args: exactly(),
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			cfg, err := node.Load(node.Sources{Flags: changedSettings(cmd.Flags()), Environ: os.Environ(), File: cmd.Flag("config").Value.String()})
			if err != nil {
				return err
			}
			a.logFormat, a.nodeID = cfg.LogFormat, cfg.NodeID
			n, err := node.New(cfg)
			if err != nil {
				return err
			}
			observability.CaptureLibraries(n.Logger())
			err = n.Run(ctx)
			a.logged = err != nil && cfg.LogFormat == formatJSON
			return err
		}),
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().String("config", "", "YAML `file` with settings")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // the flag is there
	for _, s := range node.Settings() {
		help := s.Help
		if s.Bounds != "" && s.Kind != "bool" && s.Kind != "name" {
			help += " [" + s.Bounds + "]"
		}
		f := cmd.Flags().VarPF(&settingFlag{text: s.Default, kind: s.Kind}, s.Name, "", help)
		if s.Kind == "bool" {
			f.NoOptDefVal, f.DefValue = "true", "false"
		}
		if s.Kind == "dir" {
			_ = cmd.MarkFlagDirname(s.Name) // the flag is there
		}
	}
	return cmd
}

const (
	serverPath = "streamhouse server"
	formatJSON = "json"
)

// logsJSON reports whether a server is to log JSON, as far as that can be known of one whose settings may be wrong.
func (a *app) logsJSON(args []string) bool {
	if a.logFormat != "" {
		return a.logFormat == formatJSON
	}
	for i, arg := range args {
		if arg == "--log-format" && i+1 < len(args) {
			return args[i+1] == formatJSON
		}
		if format, ok := strings.CutPrefix(arg, "--log-format="); ok {
			return format == formatJSON
		}
	}
	return cmp.Or(os.Getenv("STREAMHOUSE_LOG_FORMAT"), os.Getenv("LOG_FORMAT")) == formatJSON
}

// sayJSON writes an error as a line of the log.
func (a *app) sayJSON(err error) {
	log, newErr := observability.NewLogger(a.stderr, formatJSON, "info", a.nodeID)
	if newErr != nil {
		a.say("streamhouse: %v", err)
		return
	}
	log.Error("node does not start", "error", err)
}

// changedSettings returns the settings that were given.
func changedSettings(flags *pflag.FlagSet) map[string]string {
	m := make(map[string]string)
	flags.Visit(func(f *pflag.Flag) {
		if s, ok := f.Value.(*settingFlag); ok {
			m[f.Name] = s.text
		}
	})
	return m
}
