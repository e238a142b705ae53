package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/dev"
	"github.com/streamhouse/streamhouse/internal/pause"
)

func (a *app) devCommand() *cobra.Command {
	cfg := dev.Config{ReadyTimeout: time.Minute, StopTimeout: 30 * time.Second, Say: a.say}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a cluster on this machine, for trying things out",
		Long: `Run a cluster on this machine: one process a node, on loopback, until Ctrl-C.

A node that is killed stays dead and the others go on. Started again on the same
directory, the cluster is back with its data. What stands behind -- goes to every node.`,
		Example: `  streamhouse dev
  streamhouse dev --nodes 1 --data-dir /tmp/one -- --log-level debug`,
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return usagef("unknown argument %q: flags for the nodes stand behind --", args[0])
			}
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			cfg.Binary, cfg.ServerArgs = binary, args
			c, err := dev.New(cfg)
			if err != nil {
				return usagef("%s", err)
			}
			return c.Run(ctx, func(ctx context.Context, nodes []*dev.Node) error {
				return a.showCluster(ctx, cfg, nodes)
			})
		}),
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Nodes, "nodes", 3, "number of nodes")
	f.StringVar(&cfg.Dir, "data-dir", "./data/dev", "`directory` for the files and logs of all nodes")
	_ = cmd.MarkFlagDirname("data-dir") // the flag is there
	f.StringVar(&cfg.ObjectStore, "object-store", "", "`url` of the object store (default: the directory objects in the data directory)")
	f.IntVar(&cfg.GRPCPort, "grpc-port", 50051, "gRPC `port` of n1; each next node has one more")
	f.IntVar(&cfg.HTTPPort, "http-port", 8080, "HTTP `port` of n1")
	f.IntVar(&cfg.RaftPort, "raft-port", 7000, "Raft `port` of n1")
	f.IntVar(&cfg.GossipPort, "gossip-port", 7946, "gossip `port` of n1")
	return cmd
}

// showCluster waits until the shards are led, and says what there is and how to use it.
func (a *app) showCluster(ctx context.Context, cfg dev.Config, nodes []*dev.Node) error {
	var grpcAddrs []string
	rows := a.rows("ID", "PID", "GRPC", "HTTP")
	for _, n := range nodes {
		grpcAddrs = append(grpcAddrs, n.GRPCAddr)
		rows.Add(n.ID, n.PID, n.GRPCAddr, n.HTTPAddr)
	}
	addrs := strings.Join(grpcAddrs, ",")
	if err := a.waitShards(ctx, addrs, len(nodes), cfg.ReadyTimeout); err != nil {
		return err
	}
	if _, err := rows.WriteTo(a.stdout); err != nil {
		return err
	}
	self := "streamhouse"
	if len(os.Args) > 0 && strings.ContainsRune(os.Args[0], os.PathSeparator) {
		self = os.Args[0]
	}
	if nodes[0].GRPCAddr != client.DefaultAddr || len(nodes) > 1 {
		a.say("\n  export STREAMHOUSE_ADDR=%s", addrs)
	}
	a.say("\n  produce  seq 1000 | %[1]s produce events --create 3\n"+
		"  consume  %[1]s consume events --group billing --max 400\n"+
		"  lag      %[1]s group describe billing\n"+
		"  status   %[1]s cluster status\n"+
		"  scrape   curl -s http://%[2]s/metrics\n"+
		"  stop     Ctrl-C; logs and data are in %[3]s\n", self, nodes[0].HTTPAddr, cfg.Dir)
	_, err := fmt.Fprintln(a.stdout, "cluster ready")
	return err
}

// waitShards waits until all nodes are registered and every shard has a leader
// and its replicas. Too few replicas are no reason to fail: a node may be drained.
func (a *app) waitShards(ctx context.Context, addrs string, nodes int, timeout time.Duration) error {
	conn := connection{addr: addrs, timeout: timeout}
	cl, err := conn.open(a)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // all calls have returned
	admin := client.NewAdmin(cl)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		c, err := admin.ClusterStatus(limited)
		if err == nil {
			err = led(c, nodes)
		}
		if err == nil && replicated(c, min(3, nodes)) {
			return nil
		}
		if pause.For(limited, statusEvery/5) == nil {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("the cluster was not complete after %s: %w", timeout, err)
		}
		a.say("some shards have fewer than %d replicas: see cluster status", min(3, nodes))
		return nil
	}
}

// led returns what is missing until every shard can be written to.
func led(c client.Cluster, nodes int) error {
	if len(c.Nodes) < nodes {
		return fmt.Errorf("%d of %d nodes are registered", len(c.Nodes), nodes)
	}
	if len(c.Shards) == 0 {
		return errors.New("there are no shards")
	}
	for _, sh := range c.Shards {
		if sh.Leader == "" {
			return fmt.Errorf("shard %d has no leader", sh.Number)
		}
	}
	return nil
}

// replicated is true when the metadata group and every shard have so many voters.
func replicated(c client.Cluster, voters int) bool {
	metadata := 0
	for _, n := range c.Nodes {
		if n.MetadataRole == client.RoleVoter {
			metadata++
		}
	}
	for _, sh := range c.Shards {
		n := 0
		for _, r := range sh.Replicas {
			if r.Role == client.RoleVoter {
				n++
			}
		}
		if n < voters {
			return false
		}
	}
	return metadata >= voters
}
