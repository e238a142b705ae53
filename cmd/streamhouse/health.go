package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// maxHealthBytes bounds what is read of an answer.
const maxHealthBytes = 64 << 10

func (a *app) healthCommand() *cobra.Command {
	var (
		addr    string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Tell by the exit code whether a node is ready",
		Long: `Ask a node whether it is ready, as GET /ready does, for the health checks of containers
without curl. The exit code is 0 while it is; else it is 1, and stderr has the reason.`,
		Example: `  streamhouse health
  streamhouse health --http-addr 10.0.0.1:8080 --timeout 2s`,
		Args: exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usagef("--timeout %s: must be above 0", timeout)
			}
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			if err := askReady(ctx, addr); err != nil {
				return err
			}
			_, err := fmt.Fprintln(a.stdout, "ready")
			return err
		}),
	}
	cmd.Flags().StringVar(&addr, "http-addr", "127.0.0.1:8080", "HTTP address of the node, `host:port`")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "give up after this long")
	return cmd
}

// askReady returns nil when the node at an HTTP address says that it is ready, else an error with its reason. It goes
// through no proxy.
func askReady(ctx context.Context, addr string) error {
	ready := url.URL{Scheme: "http", Host: addr, Path: "/ready"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ready.String(), http.NoBody)
	if err != nil {
		return fmt.Errorf("--http-addr %s: %w", addr, err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", addr, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var answer struct {
		Reason string `json:"reason"`
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxHealthBytes))
	if err = errors.Join(err, json.Unmarshal(body, &answer)); err != nil || answer.Reason == "" {
		return fmt.Errorf("%s is not ready: status %s", addr, resp.Status)
	}
	return fmt.Errorf("%s is not ready: %s", addr, answer.Reason)
}
