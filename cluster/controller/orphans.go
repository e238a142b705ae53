package controller

import (
	"context"
	"errors"
	"strings"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// orphan is an object that the metadata has never heard of.
type orphan struct {
	name      string
	sizeBytes int64
	modTime   time.Time
}

// dropOrphans condemns objects that are older than the grace period, that the
// metadata has never heard of, and whose footers show that nothing needs them.
// That the metadata does not know them is no reason: it may be the metadata that
// has lost something. It lists the object store once a grace period.
func (j *janitor) dropOrphans(ctx context.Context) error {
	now := j.cfg.Now()
	clusterID := j.cfg.Metadata.View().ClusterID()
	if clusterID == "" || now.Sub(j.listedLast) < j.cfg.ObjectGrace {
		return nil
	}
	var old []orphan
	err := object.All(ctx, j.cfg.Bucket, clusterID+"/", func(a object.Attributes) error {
		if strings.HasSuffix(a.Name, segment.NameSuffix) && now.Sub(a.ModTime) > j.cfg.ObjectGrace &&
			!j.cfg.Metadata.View().ObjectKnown(a.Name) {
			old = append(old, orphan{a.Name, a.SizeBytes, a.ModTime})
		}
		return nil
	})
	if err != nil {
		return err
	}
	// What was listed while the view was old is known by now.
	barrier, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	if err := j.cfg.Metadata.Barrier(barrier); err != nil {
		return err
	}
	names, kept, err := j.superfluous(ctx, j.cfg.Metadata.View(), old)
	if err != nil {
		return err
	}
	j.footers.keep(kept)
	j.metrics.objectsKept.Set(float64(len(kept)))
	if len(kept) > 0 {
		j.cfg.Logger.Warn("objects that the metadata does not know are kept: nothing proves that they are not needed",
			"objects", len(kept), "first", kept[0])
	}
	if err := j.drop(ctx, names); err != nil {
		return err
	}
	j.listedLast = now
	return nil
}

// superfluous parts orphans into those that surely are not needed and those that may be.
func (j *janitor) superfluous(ctx context.Context, view *fsm.View, orphans []orphan) (names, kept []string, err error) {
	for _, o := range orphans {
		if view.ObjectKnown(o.name) {
			continue
		}
		drop, err := j.provenSuperfluous(ctx, view, o)
		if err != nil {
			return nil, nil, err
		}
		if drop {
			names = append(names, o.name)
		} else {
			kept = append(kept, o.name)
		}
	}
	return names, kept, nil
}

func (j *janitor) provenSuperfluous(ctx context.Context, view *fsm.View, o orphan) (bool, error) {
	footer, err := j.footerOf(ctx, o)
	if err != nil || footer == nil {
		return false, err
	}
	if segment.RecoveryID(o.name, footer, view.RecoveryID()) != view.RecoveryID() {
		return false, nil // The recovery has left it alone, or it came later: an operator decides.
	}
	return view.Superfluous(footer), nil
}

// footerOf returns the footer of an orphan, nil for one that is damaged, refused or gone. It reads what it does not remember.
func (j *janitor) footerOf(ctx context.Context, o orphan) (*metav1.ObjectFooter, error) {
	if footer, known := j.footers.get(o); known {
		return footer, nil
	}
	attempt, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	footer, err := segment.ReadFooter(attempt, object.Ranges{Getter: j.cfg.Bucket}, o.name, o.sizeBytes)
	switch {
	case err == nil:
	case errors.Is(err, segment.ErrCorrupt), errors.Is(err, segment.ErrVersion):
		footer = nil
	case errors.Is(err, object.ErrNotFound), errors.Is(err, object.ErrDenied):
		return nil, nil //nolint:nilnil // it is gone, or this one is refused (archived, its key disabled), and stays
	default:
		return nil, err
	}
	j.footers.add(o, footer)
	return footer, nil
}
