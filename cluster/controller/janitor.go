package controller

import (
	"context"
	"errors"
	"slices"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
)

const (
	// forgetAfter is how long a condemned name is refused: longer than any upload hangs.
	forgetAfter = 7 * 24 * time.Hour
	// namesPerCommand bounds one command.
	namesPerCommand = 500
	// trimsPerRound bounds one round of retention.
	trimsPerRound = 2000
	// maxRefused is how many objects in a row may be refused before none is asked for in this round.
	maxRefused = 16
	// roundTimeout bounds one call to the metadata group or the object store.
	roundTimeout = 30 * time.Second
)

// retain applies retention once, going on behind the partition at which the last round has ended.
func (c *Controller) retain(ctx context.Context) {
	trims := planRetention(c.cfg.Metadata.View(), c.cfg.Now().UnixMilli(), c.trimmed, trimsPerRound)
	for _, t := range trims {
		c.trimmed = t.GetPartitionId()
		_, err := c.propose(ctx, &metav1.Command{Command: &metav1.Command_TrimPartition{TrimPartition: t}})
		_, rejected := errors.AsType[*fsm.Rejection](err)
		switch {
		case err == nil:
			c.metrics.trims.Inc()
			c.cfg.Logger.Debug("retention moves the log start", "partition_id", t.GetPartitionId(), "offset", t.GetLogStartOffset())
		case rejected: // The topic was deleted meanwhile.
		default:
			if ctx.Err() == nil {
				c.cfg.Logger.Warn("retention stopped, it goes on in the next round", "error", err)
			}
			return
		}
	}
}

func (c *Controller) propose(ctx context.Context, cmd *metav1.Command) (*metav1.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	return c.cfg.Metadata.Propose(ctx, cmd)
}

// janitor removes objects that nothing refers to. The metadata condemns them
// first and refuses their names from then on; they are deleted after a grace
// period. It is for one goroutine.
type janitor struct {
	cfg     *Config
	metrics *metrics
	// deleted holds condemned objects that were surely deleted, by this janitor.
	deleted    map[string]bool
	listedLast time.Time
	footers    footers
}

func newJanitor(cfg *Config, m *metrics) *janitor {
	return &janitor{cfg: cfg, metrics: m, deleted: make(map[string]bool)}
}

// round does all once. What fails is logged, and tried again in the next round.
func (j *janitor) round(ctx context.Context) {
	if j.cfg.Superseded != nil {
		if err := j.cfg.Superseded(ctx); err != nil {
			if ctx.Err() == nil {
				j.cfg.Logger.Warn("janitor does not begin: it can't be sure that the cluster was not recovered without this node", "error", err)
			}
			return
		}
	}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"condemn unused objects", j.dropUnused},
		{"look for objects that nobody listed", j.dropOrphans},
		{"delete condemned objects", j.deleteDropped},
		{"forget deleted objects", j.forget},
	}
	for _, s := range steps {
		err := s.do(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil { // The others can be done nevertheless.
			j.cfg.Logger.Warn("janitor stopped, it goes on in the next round", "step", s.name, "error", err)
		}
	}
}

func (j *janitor) propose(ctx context.Context, cmd *metav1.Command) (*metav1.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	return j.cfg.Metadata.Propose(ctx, cmd)
}

func (j *janitor) drop(ctx context.Context, names []string) error {
	for chunk := range slices.Chunk(names, namesPerCommand) {
		res, err := j.propose(ctx, &metav1.Command{Command: &metav1.Command_DropObjects{
			DropObjects: &metav1.DropObjects{Objects: chunk, TimeMs: j.cfg.Now().UnixMilli()},
		}})
		if err != nil {
			return err
		}
		j.metrics.objectsDropped.Add(float64(len(res.GetDropped())))
		j.cfg.Logger.Info("objects are condemned, nothing refers to them", "objects", len(res.GetDropped()))
	}
	return nil
}

// dropUnused condemns what retention, topic deletion and lost races have left.
func (j *janitor) dropUnused(ctx context.Context) error {
	return j.drop(ctx, slices.Collect(j.cfg.Metadata.View().UnusedObjects()))
}

// deleteDropped deletes what was condemned longer than the grace period ago. It is
// the only place that deletes, and a new leader does it once again for all.
func (j *janitor) deleteDropped(ctx context.Context) error {
	view := j.cfg.Metadata.View()
	before := j.cfg.Now().Add(-j.cfg.ObjectGrace).UnixMilli()
	var denied error
	refused := 0 // in a row
	for d := range view.DroppedObjects() {
		if d.DroppedMs > before || j.deleted[d.Name] {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, roundTimeout)
		err := j.cfg.Bucket.Delete(attempt, d.Name)
		cancel()
		switch {
		case err == nil:
			j.deleted[d.Name] = true
			j.metrics.objectsDeleted.Inc()
			refused = 0
		case errors.Is(err, object.ErrDenied) && refused < maxRefused: // It may be this one alone.
			denied = err
			refused++
		default:
			return err
		}
	}
	return denied
}

// forget forgets names that were condemned long ago and whose objects are deleted.
func (j *janitor) forget(ctx context.Context) error {
	before := j.cfg.Now().Add(-max(forgetAfter, j.cfg.ObjectGrace)).UnixMilli()
	var names []string
	deleted := make(map[string]bool)
	for d := range j.cfg.Metadata.View().DroppedObjects() {
		if !j.deleted[d.Name] {
			continue
		}
		deleted[d.Name] = true
		if d.DroppedMs <= before {
			names = append(names, d.Name)
		}
	}
	j.deleted = deleted // Without those that another leader has forgotten.
	for chunk := range slices.Chunk(names, namesPerCommand) {
		_, err := j.propose(ctx, &metav1.Command{Command: &metav1.Command_ForgetObjects{
			ForgetObjects: &metav1.ForgetObjects{Objects: chunk},
		}})
		if err != nil {
			return err
		}
		for _, name := range chunk {
			delete(j.deleted, name)
		}
	}
	return nil
}
