package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompletionScripts(t *testing.T) {
	for shell, want := range map[string]string{
		"bash": "__start_streamhouse", "zsh": "#compdef streamhouse", "fish": "complete -c streamhouse", "powershell": "Register-ArgumentCompleter -CommandName 'streamhouse'",
	} {
		r := runWith(t.Context(), "", "completion", shell)
		require.Equal(t, exitDone, r.code)
		require.Contains(t, r.stdout, want)
	}
	r := runWith(t.Context(), "", "completion", "csh")
	require.Equal(t, refusal("completion csh", `usage: SHELL "csh": must be bash, zsh, fish, powershell`), r)
}

func TestCompletions(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "events", "--partitions", "3")
	s.ok("", "topic", "create", "errors")
	s.ok("a\n", "produce", "errors")
	s.ok("", "consume", "errors", "--group", "billing")
	complete := func(line string) string {
		r := s.run("", append([]string{"__completeNoDesc"}, strings.Split(line, "|")...)...)
		require.Equal(t, exitDone, r.code)
		words, directive, _ := strings.Cut(r.stdout, ":")
		require.Contains(t, directive, "4", "no files: %s", line)
		return strings.Join(strings.Fields(words), " ")
	}
	for line, want := range map[string]string{
		"topic|describe|":                    "errors events",
		"topic|describe|ev":                  "events",
		"topic|describe|events|":             "",
		"topic|create|":                      "",
		"produce|e":                          "errors events",
		"consume|events|--partition|":        "0 1 2",
		"consume|events|--group|":            "billing",
		"consume|events|--from|b":            "beginning",
		"consume|events|-o|j":                "json",
		"group|reset|b":                      "billing",
		"group|reset|billing|--topic|er":     "errors",
		"cluster|drain|":                     "n1 n2",
		"cluster|transfer-leader|":           "0",
		"cluster|transfer-leader|0|":         "n1 n2",
		"cluster|transfer-leader|9|":         "",
		"bench|e2e|ev":                       "events",
		"bench|produce|t|--compression|z":    "zstd",
		"completion|p":                       "powershell",
		"topic|describe|--addr|127.0.0.1:1|": "",
	} {
		require.Equal(t, want, complete(line), line)
	}
}
