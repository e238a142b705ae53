package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/internal/pause"
)

func (a *app) clusterCommand() *cobra.Command {
	return group("cluster", "Show and change who is in the cluster",
		`Show how the cluster is, and move work between its nodes. What is begun here goes on in the
cluster when the command has ended.`,
		`  streamhouse cluster status
  streamhouse cluster drain n2 --wait --timeout 10m`,
		a.clusterStatus(),
		a.nodeChange((*client.Admin).DrainNode, drained, cobra.Command{
			Use: "drain NODE", Short: "Move replicas and leaderships off a node, and put no new ones there",
			Long: `Move replicas and leaderships off a node, and put no new ones there, before the node is
worked on. It is refused where no other node could take the replicas.`,
			Example: `  streamhouse cluster drain n2
  streamhouse cluster drain n2 --wait --timeout 10m`,
		}),
		a.nodeChange((*client.Admin).UndrainNode, nil, cobra.Command{
			Use: "undrain NODE", Short: "Let a drained node take replicas again",
			Long: `Let a drained node take replicas and leaderships again. The cluster moves some there by and
by.`,
			Example: `  streamhouse cluster undrain n2`,
		}),
		a.nodeChange((*client.Admin).DecommissionNode, removed, cobra.Command{
			Use: "decommission NODE", Short: "Drain a node and remove it from the cluster",
			Long: `Drain a node, and remove it from the cluster once it is empty. Then its process can be
stopped and its disk wiped. It is refused where no other node could take the replicas.`,
			Example: `  streamhouse cluster decommission n2
  streamhouse cluster decommission n2 --wait --timeout 10m`,
		}),
		a.transferLeader(),
		a.clusterRecover(),
	)
}

// drained is true when a node holds and leads nothing.
func drained(c client.Cluster, id string) bool {
	for _, n := range c.Nodes {
		if n.ID == id {
			return holds(c, id) == 0 && n.Replicas == 0 && n.Leaders == 0
		}
	}
	return true
}

func removed(c client.Cluster, id string) bool {
	for _, n := range c.Nodes {
		if n.ID == id {
			return false
		}
	}
	return holds(c, id) == 0
}

// holds returns the number of replicas that groups still have on a node.
func holds(c client.Cluster, id string) int {
	n := 0
	for _, sh := range c.Shards {
		for _, r := range sh.Replicas {
			if r.Node == id {
				n++
			}
		}
	}
	return n
}

const statusEvery = 500 * time.Millisecond

// nodeChange is a command that changes a node's state; finished says when the change is done, nil where it is at once.
func (a *app) nodeChange(change func(*client.Admin, context.Context, string) error, finished func(client.Cluster, string) bool, about cobra.Command) *cobra.Command {
	var (
		c    connection
		wait bool
	)
	cmd, name := &about, about.Name()
	cmd.Args = exactly("NODE")
	cmd.RunE = a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
		return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
			if err := change(admin, ctx, args[0]); err != nil {
				return err
			}
			if finished == nil {
				a.say("%s: %s", name, args[0])
				return nil
			}
			if !wait {
				a.say("%s of %s has begun; see streamhouse cluster status", name, args[0])
				return nil
			}
			return a.waitStatus(ctx, admin, name, args[0], finished)
		})
	})
	if finished != nil {
		cmd.Flags().BoolVar(&wait, "wait", false, "return when all replicas have moved; see --timeout")
	}
	return c.call(cmd)
}

func (a *app) waitStatus(ctx context.Context, admin *client.Admin, name, id string, finished func(client.Cluster, string) bool) error {
	for {
		c, err := admin.ClusterStatus(ctx)
		if err == nil && finished(c, id) {
			a.say("%s of %s is done", name, id)
			return nil
		}
		if err != nil && !unavailable(err) {
			return err
		}
		if pause.For(ctx, statusEvery) != nil {
			if err == nil {
				err = fmt.Errorf("%d replicas are still on the node", holds(c, id))
			}
			return fmt.Errorf("%s of %s goes on, but was not done in time: %w", name, id, err)
		}
	}
}

func (a *app) transferLeader() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "transfer-leader SHARD NODE",
		Short: "Make a node the leader of a shard of which it has a replica",
		Long: `Make a node the leader of a shard, of which it must have a replica that is up to date. The
cluster may move the leadership on later, to spread leaders evenly.`,
		Example: `  streamhouse cluster transfer-leader 0 n2`,
		Args:    exactly("SHARD", "NODE"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, args []string) error {
			shard, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil {
				return usagef("SHARD %q: must be a number", args[0])
			}
			return c.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
				if err := admin.TransferLeader(ctx, uint32(shard), args[1]); err != nil {
					return err
				}
				a.say("shard %d is led by %s", shard, args[1])
				return nil
			})
		}),
	}
	return c.call(cmd)
}
