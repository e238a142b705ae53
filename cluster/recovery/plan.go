package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/streamhouse/streamhouse/cluster/transport"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// Cluster is the cluster that is recovered, as the object store names it.
type Cluster struct {
	ID, Name  string
	Shards    uint32
	CreatedMs int64
	// ObjectStore is the URL under which the new nodes reach the store.
	ObjectStore string
}

// Plan is a recovery that is worked out, and not done.
type Plan struct {
	// View is the metadata that the cluster would begin with.
	View   *fsm.View
	Report *fsm.RecoveryReport
	// Checkpoint is the name of the checkpoint that it is made from; empty for none.
	Checkpoint string
	// CheckpointTime is when the checkpoint was written; zero without one.
	CheckpointTime time.Time
	// Damaged are newer checkpoints that can't be read, with what is wrong.
	Damaged []string
	// Objects is the number of objects with segments that the store has.
	Objects int

	cluster Cluster
	seen    listing
	// others are addresses at which nodes of the cluster were last heard of, by node.
	others map[string]string
}

// listing is what tells whether somebody writes.
type listing struct {
	objects            int
	newestObject, base string
}

const (
	// footersAtOnce is how many footers are read side by side.
	footersAtOnce = 16
	// footerTries is how often one is tried: the store may ask to slow down.
	footerTries = 3
)

// NewPlan works a recovery out. It writes nothing. It fails where the object store does not answer: what can't be read
// now is not taken for lost.
func NewPlan(ctx context.Context, b Bucket, c Cluster) (*Plan, error) {
	p := &Plan{cluster: c, others: make(map[string]string)}
	l, err := readLives(ctx, b, c.ID)
	if err != nil {
		return nil, err
	}
	bases, err := listBases(ctx, b, c.ID, l.claimed)
	if err != nil {
		return nil, err
	}
	base, err := p.readBase(ctx, b, bases)
	if err != nil {
		return nil, err
	}
	if l.claimed != "" {
		if by, err := readClaim(ctx, b, c.ID, l.claimed); err == nil {
			p.others[by.NodeID] = by.RaftAddr
		}
	}
	objects, err := listObjects(ctx, b, c.ID)
	if err != nil {
		return nil, err
	}
	p.Objects = len(objects)
	p.seen = listingOf(objects, bases)
	if err := readFooters(ctx, b, objects, base); err != nil {
		return nil, err
	}
	id := nextID(time.Now(), p.seen, bases, l)
	r := &fsm.Recovery{
		ID: id.String(), TimeMs: int64(id.Time()), Base: base, BaseName: p.seen.base, ClusterID: c.ID, ClusterName: c.Name,
		Shards: c.Shards, CreatedMs: c.CreatedMs, ObjectStore: c.ObjectStore, Objects: objects,
	}
	if p.View, p.Report, err = fsm.Recover(r); err != nil {
		return nil, err
	}
	return p, nil
}

// readBase returns the newest checkpoint that can be read; nil for none.
func (p *Plan) readBase(ctx context.Context, b Bucket, bases []stored) (*fsm.View, error) {
	for _, base := range slices.Backward(bases) {
		v, err := readView(ctx, b, base.Name)
		if err != nil {
			if !isDamaged(err) {
				return nil, err
			}
			p.Damaged = append(p.Damaged, err.Error())
			continue
		}
		p.Checkpoint = base.Name
		if p.CheckpointTime = base.ModTime; p.CheckpointTime.IsZero() {
			p.CheckpointTime = timeOf(v.RecoveryID())
		}
		for _, n := range v.Nodes() {
			p.others[n.ID] = n.RaftAddr
		}
		return v, nil
	}
	return nil, nil //nolint:nilnil // there is none, and that is no error
}

func timeOf(id string) time.Time {
	u, err := ulid.ParseStrict(id)
	if err != nil {
		return time.Time{}
	}
	return ulid.Time(u.Time())
}

func listObjects(ctx context.Context, b object.Lister, clusterID string) ([]fsm.FoundObject, error) {
	var objects []fsm.FoundObject
	err := object.All(ctx, b, clusterID+"/", func(a object.Attributes) error {
		if strings.HasSuffix(a.Name, segment.NameSuffix) {
			objects = append(objects, fsm.FoundObject{Name: a.Name, SizeBytes: a.SizeBytes})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the objects of cluster %s: %w", clusterID, err)
	}
	return objects, nil
}

func listingOf(objects []fsm.FoundObject, bases []stored) listing {
	l := listing{objects: len(objects)}
	for i := range objects {
		if _, _, id, err := segment.ParseName(objects[i].Name); err == nil {
			l.newestObject = max(l.newestObject, id.String())
		}
	}
	if len(bases) > 0 {
		l.base = bases[len(bases)-1].Name
	}
	return l
}

// nextID mints the id of a recovery: newer than all that the store has, whatever the clocks of those who wrote it.
func nextID(now time.Time, seen listing, bases []stored, l lives) ulid.ULID {
	newest := max(seen.newestObject, l.pending, l.claimed)
	for i := range bases {
		newest = max(newest, bases[i].id)
	}
	ms := ulid.Timestamp(now)
	if u, err := ulid.ParseStrict(newest); err == nil && u.Time() >= ms {
		ms = u.Time() + 1
	}
	return ulid.MustNew(ms, ulid.DefaultEntropy())
}

// readFooters reads the footers of the objects that base does not know. An object that is damaged keeps why in Err.
func readFooters(ctx context.Context, b Bucket, objects []fsm.FoundObject, base *fsm.View) error {
	recoveryID := ""
	if base != nil {
		recoveryID = base.RecoveryID()
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(footersAtOnce)
	for i := range objects {
		o := &objects[i]
		if base != nil && base.ObjectKnown(o.Name) {
			continue
		}
		eg.Go(func() error { return readFooter(ctx, b, o, recoveryID) })
	}
	return eg.Wait()
}

func readFooter(ctx context.Context, b Bucket, o *fsm.FoundObject, recoveryID string) error {
	var err error
	for range footerTries {
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		o.Footer, err = segment.ReadFooter(attempt, object.Ranges{Getter: b}, o.Name, o.SizeBytes)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			o.RecoveryID = segment.RecoveryID(o.Name, o.Footer, recoveryID)
			return nil
		}
		if errors.Is(err, segment.ErrCorrupt) || errors.Is(err, segment.ErrVersion) || errors.Is(err, object.ErrNotFound) {
			o.Footer, o.Err = nil, err
			return nil
		}
	}
	return fmt.Errorf("read the footer of %s: %w", o.Name, err)
}

// ErrAlive says that a node of the cluster lives.
var ErrAlive = errors.New("a node of the cluster lives: recover only when all are gone, since what they have is lost by it")

// CheckGone returns ErrAlive where a node answers that the object store knows, or an error where something listens at
// its address that does not say what it is.
func (p *Plan) CheckGone(ctx context.Context) error {
	var errs []error
	for node, addr := range p.others {
		alive, err := transport.IsMember(ctx, addr, p.cluster.ID)
		if alive {
			return fmt.Errorf("node %s at %s: %w", node, addr, ErrAlive)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", node, err))
		}
	}
	return errors.Join(errs...)
}

// CheckQuiet returns ErrAlive where somebody has written to the object store since the plan was made.
func (p *Plan) CheckQuiet(ctx context.Context, b Bucket) error {
	l, err := readLives(ctx, b, p.cluster.ID)
	if err != nil {
		return err
	}
	bases, err := listBases(ctx, b, p.cluster.ID, l.claimed)
	if err != nil {
		return err
	}
	objects, err := listObjects(ctx, b, p.cluster.ID)
	if err != nil {
		return err
	}
	if now := listingOf(objects, bases); now != p.seen {
		return fmt.Errorf("the object store has changed: %w", ErrAlive)
	}
	return nil
}

// Execute puts the recovery into the object store. The first of the new nodes begins with it. It may be repeated: then
// the last one counts. After an error the outcome is unknown, and it is to be repeated.
func (p *Plan) Execute(ctx context.Context, b Bucket) error {
	var data bytes.Buffer
	if err := fsm.WriteSnapshot(p.View, &data); err != nil {
		return fmt.Errorf("write the recovered metadata: %w", err)
	}
	return put(ctx, b, recoveryName(p.cluster.ID, p.View.RecoveryID()), data.Bytes())
}
