package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// The commands of docs/cli.md are made from what --help says: go test ./cmd/streamhouse -run TestDocumentation -update.
func TestDocumentation(t *testing.T) {
	const (
		path  = "../../docs/cli.md"
		begin = "<!-- commands: made by go test ./cmd/streamhouse -run TestDocumentation -update -->\n"
		end   = "<!-- end of commands -->\n"
	)
	old, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := bytes.Cut(old, []byte(begin))
	require.True(t, ok, "no line %q", begin)
	_, tail, ok := bytes.Cut(rest, []byte(end))
	require.True(t, ok, "no line %q", end)
	var b bytes.Buffer
	b.Write(head)
	b.WriteString(begin)
	documentAll(&b, (&app{}).rootCommand())
	b.WriteString(end)
	b.Write(tail)
	if *updateGolden {
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
		return
	}
	require.Equal(t, b.String(), string(old), "run: make generate")
}

func documentAll(b *bytes.Buffer, root *cobra.Command) {
	var all []*cobra.Command
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.InitDefaultHelpFlag()
		all = append(all, cmd)
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				walk(c)
			}
		}
	}
	walk(root)
	b.WriteString("\n## Commands\n\n| command | what it does |\n| --- | --- |\n")
	for _, cmd := range all[1:] {
		path := cmd.CommandPath()
		fmt.Fprintf(b, "| [`%s`](#%s) | %s |\n", path, strings.ReplaceAll(path, " ", "-"), cmd.Short)
	}
	for _, cmd := range all[1:] {
		document(b, cmd)
	}
	b.WriteString("\n")
}

func document(b *bytes.Buffer, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n", cmd.CommandPath(), strings.TrimSpace(cmd.Long))
	if !cmd.HasAvailableSubCommands() {
		fmt.Fprintf(b, "\n```\n%s\n```\n", cmd.UseLine())
	}
	var example []string
	for line := range strings.Lines(cmd.Example) {
		example = append(example, strings.TrimPrefix(line, "  "))
	}
	fmt.Fprintf(b, "\n```sh\n%s\n```\n", strings.TrimSpace(strings.Join(example, "")))
	if cmd.HasAvailableSubCommands() {
		return
	}
	rows := 0
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if rows++; rows == 1 {
			b.WriteString("\n| flag | default | what it does |\n| --- | --- | --- |\n")
		}
		documentFlag(b, f)
	})
}

func documentFlag(b *bytes.Buffer, f *pflag.Flag) {
	kind, help := pflag.UnquoteUsage(f)
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	if kind != "" {
		name += " " + kind
	}
	byDefault := ""
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
	default:
		byDefault = "`" + f.DefValue + "`"
	}
	fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, byDefault, strings.NewReplacer("|", "\\|", "<", "&lt;", ">", "&gt;").Replace(help))
}
