package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
)

// completionTimeout bounds a question that a shell asks while somebody waits for the answer.
const completionTimeout = time.Second

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Write a script that lets bash, zsh, fish or powershell complete command lines",
		Long: `Write a script that lets a shell complete commands, flags, and what is in the cluster:
topics, groups, nodes and shards, from the cluster of --addr or $STREAMHOUSE_ADDR. A
cluster that does not answer within a second completes nothing.

SHELL is bash, zsh, fish or powershell. bash needs the package bash-completion.`,
		Example: `  source <(streamhouse completion bash)                                # this bash, or from ~/.bashrc
  streamhouse completion bash >/etc/bash_completion.d/streamhouse      # all users' bash
  streamhouse completion zsh >"${fpath[1]}/_streamhouse"               # zsh, after compinit
  streamhouse completion fish >~/.config/fish/completions/streamhouse.fish
  streamhouse completion powershell | Out-String | Invoke-Expression   # this PowerShell`,
		Args:      exactly("SHELL"),
		ValidArgs: shells,
		RunE: a.do(func(_ context.Context, cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			default:
				return usagef("SHELL %q: must be %s", args[0], strings.Join(shells, ", "))
			}
		}),
	}
}

// finder returns the words that could stand behind args.
type finder func(ctx context.Context, admin *client.Admin, args []string) ([]string, error)

// argumentFinders are the finders of each argument of commands.
func argumentFinders() map[string][]finder {
	node := []finder{findNodes}
	return map[string][]finder{
		"topic describe": {findTopics}, "topic alter": {findTopics}, "topic delete": {findTopics},
		"produce": {findTopics}, "consume": {findTopics},
		"bench produce": {findTopics}, "bench consume": {findTopics}, "bench e2e": {findTopics},
		"group describe": {findGroups}, "group reset": {findGroups}, "group delete": {findGroups},
		"cluster drain": node, "cluster undrain": node, "cluster decommission": node,
		"cluster transfer-leader": {findShards, findHolders},
	}
}

// flagFinders are the finders of flags that mean the same wherever they are; nil is for what can't be completed.
func flagFinders() map[string]finder {
	return map[string]finder{
		"topic": findTopics, "group": findGroups, "partition": findPartitions, "addr": nil, "key": nil, "timeout": nil, "max": nil,
		"output": words("table", "json", "value"), "acks": words("quorum", "durable"), "compression": words("none", "snappy", "lz4", "zstd"),
		"from": words("beginning", "end"), "to": words("beginning", "end"), "config": nil, "unset-config": words("retention.ms", "retention.bytes", "max.message.bytes"),
	}
}

// complete tells a command and those below it how to complete what is on their command lines.
func (a *app) complete(cmd *cobra.Command) {
	path := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
	if cmd.Runnable() && cmd.ValidArgs == nil {
		arguments := argumentFinders()[path]
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) >= len(arguments) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.find(cmd, arguments[len(args)], args, begun)
		}
	}
	for name, find := range flagFinders() {
		if cmd.Flags().Lookup(name) == nil || (name == "config" && path == "server") {
			continue
		}
		_ = cmd.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			return a.find(cmd, find, args, begun)
		}) // the flag is there, and registered once
	}
	for _, below := range cmd.Commands() {
		a.complete(below)
	}
}

// find asks a finder, and takes failure for nothing found: who presses Tab wants no words about it.
func (a *app) find(cmd *cobra.Command, find finder, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if find == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	conn := connection{timeout: completionTimeout}
	if f := cmd.Flag("addr"); f != nil {
		conn.addr = f.Value.String()
	}
	var found []string
	_ = conn.with(cmd.Context(), a, func(ctx context.Context, admin *client.Admin) error {
		all, err := find(ctx, admin, args)
		for _, word := range all {
			if strings.HasPrefix(word, begun) {
				found = append(found, word)
			}
		}
		return err
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}

func words(list ...string) finder {
	return func(context.Context, *client.Admin, []string) ([]string, error) { return list, nil }
}

func findTopics(ctx context.Context, admin *client.Admin, _ []string) ([]string, error) {
	topics, err := admin.ListTopics(ctx)
	var names []string
	for _, t := range topics {
		names = append(names, t.Name)
	}
	return names, err
}

func findGroups(ctx context.Context, admin *client.Admin, _ []string) ([]string, error) {
	groups, err := admin.ListGroups(ctx)
	var names []string
	for _, g := range groups {
		names = append(names, g.Name)
	}
	return names, err
}

// findPartitions finds those of the topic that is the first argument.
func findPartitions(ctx context.Context, admin *client.Admin, args []string) ([]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	t, err := admin.DescribeTopic(ctx, args[0])
	var numbers []string
	for _, p := range t.Partitions {
		numbers = append(numbers, strconv.Itoa(int(p.Number)))
	}
	return numbers, err
}

func findNodes(ctx context.Context, admin *client.Admin, _ []string) ([]string, error) {
	c, err := admin.ClusterStatus(ctx)
	var ids []string
	for _, n := range c.Nodes {
		ids = append(ids, n.ID)
	}
	return ids, err
}

func findShards(ctx context.Context, admin *client.Admin, _ []string) ([]string, error) {
	c, err := admin.ClusterStatus(ctx)
	var numbers []string
	for _, s := range c.Shards {
		numbers = append(numbers, strconv.FormatUint(uint64(s.Number), 10))
	}
	return numbers, err
}

// findHolders finds the nodes with a replica of the shard that is the first argument.
func findHolders(ctx context.Context, admin *client.Admin, args []string) ([]string, error) {
	c, err := admin.ClusterStatus(ctx)
	var ids []string
	for _, s := range c.Shards {
		for _, r := range s.Replicas {
			if strconv.FormatUint(uint64(s.Number), 10) == args[0] {
				ids = append(ids, r.Node)
			}
		}
	}
	return ids, err
}
