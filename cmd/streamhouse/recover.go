package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/cluster/recovery"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/node"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/storage/object"
)

// recoverJSON and what is in it are what -o json prints: the names do not change.
type recoverJSON struct {
	ClusterID      string             `json:"cluster_id"`
	ClusterName    string             `json:"cluster_name"`
	Recovery       string             `json:"recovery"`
	Checkpoint     string             `json:"checkpoint,omitempty"`
	CheckpointTime string             `json:"checkpoint_time,omitempty"`
	Damaged        []string           `json:"damaged_checkpoints"`
	Objects        int                `json:"objects"`
	Records        int64              `json:"records"`
	LostRecords    int64              `json:"lost_records"`
	Topics         []recoverTopicJSON `json:"topics"`
	Replaced       []string           `json:"replaced_topics"`
	Skipped        []recoverSkipJSON  `json:"skipped_objects"`
	Executed       bool               `json:"executed"`
}

type recoverTopicJSON struct {
	Topic         string                 `json:"topic"`
	TopicUUID     string                 `json:"topic_uuid"`
	ConfigUnknown bool                   `json:"config_unknown"`
	Partitions    []recoverPartitionJSON `json:"partitions"`
}

type recoverPartitionJSON struct {
	Partition int32            `json:"partition"`
	LogStart  int64            `json:"log_start"`
	End       int64            `json:"end"`
	Records   int64            `json:"records"`
	Gaps      []recoverGapJSON `json:"gaps"`
}

type recoverGapJSON struct {
	From   int64  `json:"from"`
	To     int64  `json:"to"`
	Object string `json:"object,omitempty"`
	Reason string `json:"reason"`
}

type recoverSkipJSON struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
}

func (a *app) clusterRecover() *cobra.Command {
	var (
		store           string
		timeout, settle time.Duration
		execute         bool
	)
	format := output.Table
	cmd := &cobra.Command{
		Use:   "recover --object-store URL",
		Short: "Make a cluster anew from its object store after every node is gone; shows the plan, and acts with --execute",
		Long: `Make a cluster anew from its object store, after every node with its disk is gone for good.
What was uploaded comes back with its offsets, topics with their configs, and committed
offsets of groups; what was not uploaded is lost.

It shows what would come back, and prepares it only with --execute. It is refused while a
node of the cluster lives. Then start new nodes with empty data directories, the same
--object-store and --cluster-name, and --bootstrap-expect: the first of them begins with what
was prepared.`,
		Example: `  streamhouse cluster recover --object-store 's3://logs/prod?region=eu-central-1'
  streamhouse cluster recover --object-store 's3://logs/prod?region=eu-central-1' --execute`,
		Args: exactly(),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			if store == "" {
				return usagef("--object-store is required")
			}
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return a.recoverCluster(ctx, store, execute, settle, format)
		}),
	}
	cmd.Flags().StringVar(&store, "object-store", "", "the object `URL` that the cluster used, and that the new nodes will use")
	cmd.Flags().BoolVar(&execute, "execute", false, "do it")
	cmd.Flags().DurationVar(&settle, "settle", 10*time.Second, "with --execute, refuse if somebody writes to the object store within this long")
	cmd.Flags().DurationVar(&timeout, "timeout", 4*time.Hour, "give up after this long")
	cmd.Flags().VarP(&format, "output", "o", "table, json or value")
	return cmd
}

func (a *app) recoverCluster(ctx context.Context, store string, execute bool, settle time.Duration, format output.Format) error {
	bucket, err := openStore(ctx, store)
	if err != nil {
		return err
	}
	cluster, err := node.RecoverableCluster(ctx, bucket, store)
	if err != nil {
		return err
	}
	plan, err := recovery.NewPlan(ctx, bucket, cluster)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", cluster.ID, err)
	}
	if execute {
		err = a.executeRecovery(ctx, bucket, plan, settle)
	}
	j := newRecoverJSON(cluster, plan, execute && err == nil)
	if werr := a.writeRecovery(format, j); werr != nil {
		return errors.Join(err, werr)
	}
	if err != nil {
		return fmt.Errorf("nothing was prepared: %w", err)
	}
	if !execute {
		a.say("nothing was changed: add --execute to do it")
		return nil
	}
	a.say("recovery %s is prepared: start new nodes with empty data directories, --cluster-name %s and --bootstrap-expect", j.Recovery, j.ClusterName)
	return nil
}

// openStore opens an object store that must be there.
func openStore(ctx context.Context, store string) (object.Bucket, error) {
	if dir, ok := strings.CutPrefix(store, "file://"); ok {
		if _, err := os.Stat(dir); err != nil { // opening would make it
			return nil, fmt.Errorf("--object-store: %w", err)
		}
	}
	bucket, err := object.Open(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("--object-store %s: %w", object.Redact(store), err)
	}
	return object.WithRetry(bucket, object.RetryConfig{}), nil
}

func (a *app) executeRecovery(ctx context.Context, bucket object.Bucket, plan *recovery.Plan, settle time.Duration) error {
	if err := plan.CheckGone(ctx); err != nil {
		return err
	}
	if err := pause.For(ctx, settle); err != nil {
		return err
	}
	if err := plan.CheckQuiet(ctx, bucket); err != nil {
		return err
	}
	return plan.Execute(ctx, bucket)
}

func newRecoverJSON(c recovery.Cluster, p *recovery.Plan, executed bool) *recoverJSON {
	r := p.Report
	j := &recoverJSON{
		ClusterID: c.ID, ClusterName: c.Name, Recovery: r.RecoveryID, Checkpoint: p.Checkpoint, Damaged: append([]string{}, p.Damaged...),
		Objects: p.Objects, Records: r.Records(), LostRecords: r.LostRecords(), Topics: []recoverTopicJSON{},
		Replaced: append([]string{}, r.Replaced...), Skipped: []recoverSkipJSON{}, Executed: executed,
	}
	if !p.CheckpointTime.IsZero() {
		j.CheckpointTime = formatTime(p.CheckpointTime)
	}
	for _, t := range r.Topics {
		j.Topics = append(j.Topics, newRecoverTopicJSON(t))
	}
	for _, s := range r.Skipped {
		j.Skipped = append(j.Skipped, recoverSkipJSON{Object: s.Name, Reason: s.Reason})
	}
	return j
}

func newRecoverTopicJSON(t fsm.RecoveredTopic) recoverTopicJSON {
	tj := recoverTopicJSON{Topic: t.Name, TopicUUID: uuid.UUID(t.UUID).String(), ConfigUnknown: t.ConfigUnknown, Partitions: []recoverPartitionJSON{}}
	for _, p := range t.Partitions {
		pj := recoverPartitionJSON{Partition: p.Number, LogStart: p.LogStart, End: p.End, Records: p.Records, Gaps: []recoverGapJSON{}}
		for _, g := range p.Gaps {
			pj.Gaps = append(pj.Gaps, recoverGapJSON{From: g.From, To: g.To, Object: g.Object, Reason: g.Reason})
		}
		tj.Partitions = append(tj.Partitions, pj)
	}
	return tj
}

func (a *app) writeRecovery(format output.Format, j *recoverJSON) error {
	rows := a.rows("TOPIC", "PARTITION", "OFFSETS", "RECORDS", "STATE")
	var values []string
	for _, t := range j.Topics {
		values = append(values, t.Topic)
		for _, p := range t.Partitions {
			rows.Add(t.Topic, p.Partition, fmt.Sprintf("%d to %d", p.LogStart, p.End), p.Records, a.recoveredState(t, p))
		}
	}
	if format == output.Table {
		base := "no checkpoint: topics without records, configs, and what was deleted are not known"
		if j.Checkpoint != "" {
			base = "checkpoint of " + j.CheckpointTime
		}
		_, err := fmt.Fprintf(a.stdout, "Cluster %s (%s), %s\n%d objects, %d records can be read, %d are lost\n\n",
			j.ClusterID, j.ClusterName, base, j.Objects, j.Records, j.LostRecords)
		if err != nil {
			return err
		}
	}
	if err := output.Write(a.stdout, format, j, rows, values); err != nil {
		return err
	}
	a.sayRecovery(j)
	return nil
}

// recoveredState says what is wrong with a partition.
func (a *app) recoveredState(t recoverTopicJSON, p recoverPartitionJSON) string {
	var parts []string
	for _, g := range p.Gaps {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("lost %d to %d: %s %s", g.From, g.To, g.Reason, g.Object)))
	}
	if len(parts) > 0 {
		return a.style.Bad(strings.Join(parts, "; "))
	}
	if t.ConfigUnknown {
		return a.style.Warn("config unknown")
	}
	return a.style.Good("ok")
}

// sayRecovery says what the table has no place for.
func (a *app) sayRecovery(j *recoverJSON) {
	for _, d := range j.Damaged {
		a.say("a newer checkpoint can't be read: %s", d)
	}
	for _, name := range j.Replaced {
		a.say("topic %s was deleted and made anew; only the newer one comes back", name)
	}
	for _, s := range j.Skipped {
		a.say("object %s is left alone: %s", s.Object, s.Reason)
	}
}
