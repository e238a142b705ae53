package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/observability"
)

// versionJSON is what -o json prints: the names do not change.
type versionJSON struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	format := output.Table
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show which build this is",
		Long:  "Show the version of this program, the revision it was built from, and the Go version.",
		Example: `  streamhouse version
  streamhouse version -o json`,
		Args: exactly(),
		RunE: a.do(func(context.Context, *cobra.Command, []string) error {
			b := observability.Build()
			v := versionJSON{Version: b.Version, Revision: b.Revision, Modified: b.Modified, Go: b.GoVersion, Platform: runtime.GOOS + "/" + runtime.GOARCH}
			switch format {
			case output.JSON:
				return output.WriteJSON(a.stdout, v)
			case output.Value:
				_, err := fmt.Fprintln(a.stdout, v.Version)
				return err
			default:
				_, err := fmt.Fprintf(a.stdout, "streamhouse %s (revision %s, %s, %s)\n", v.Version, v.Revision, v.Go, v.Platform)
				return err
			}
		}),
	}
	cmd.Flags().VarP(&format, "output", "o", "table, json or value")
	return cmd
}
