package recovery

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"
)

// Names in the object store, below the cluster's id:
//
//	metadata/<life>-<index>-<ULID>.meta        a checkpoint of the metadata
//	groups/<shard>/<life>-<index>-<ULID>.meta  the committed offsets of a shard's consumer groups
//	recovery/<ULID>.meta                       the metadata that a recovery begins with
//	recovery/<ULID>.claim                      who begins it
//
// A life is the recovery that the metadata began with, firstLife without one. The index is that of the log, so of two
// checkpoints of one life the one with the larger index is the newer. The ULID makes names unique.
const (
	metaSuffix  = ".meta"
	claimSuffix = ".claim"
	indexDigits = 20
)

// firstLife stands for no recovery; it orders before all ULIDs that have a time.
const firstLife = "00000000000000000000000000"

func lifeOf(recoveryID string) string {
	if recoveryID == "" {
		return firstLife
	}
	return recoveryID
}

func metadataPrefix(clusterID string) string { return clusterID + "/metadata/" }

func groupsPrefix(clusterID string, shard uint32) string {
	return fmt.Sprintf("%s/groups/%d/", clusterID, shard)
}

func recoveryPrefix(clusterID string) string { return clusterID + "/recovery/" }

func recoveryName(clusterID, id string) string { return recoveryPrefix(clusterID) + id + metaSuffix }

func claimName(clusterID, id string) string { return recoveryPrefix(clusterID) + id + claimSuffix }

// position is how new a checkpoint is.
type position struct {
	life  string
	index uint64
	id    string // the ULID
}

// newPosition is that of a checkpoint which is written now.
func newPosition(recoveryID string, index uint64) position {
	return position{life: lifeOf(recoveryID), index: index, id: ulid.Make().String()}
}

func (p position) name(prefix string) string {
	return fmt.Sprintf("%s%s-%0*d-%s%s", prefix, p.life, indexDigits, p.index, p.id, metaSuffix)
}

// compare orders by age.
func (p position) compare(o position) int {
	return cmp.Or(cmp.Compare(p.life, o.life), cmp.Compare(p.index, o.index), cmp.Compare(p.id, o.id))
}

// parsePosition reads a name below a prefix. Only what name could have returned is one.
func parsePosition(prefix, name string) (position, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return position{}, false
	}
	if rest, ok = strings.CutSuffix(rest, metaSuffix); !ok {
		return position{}, false
	}
	parts := strings.Split(rest, "-")
	if len(parts) != 3 {
		return position{}, false
	}
	index, err := strconv.ParseUint(parts[1], 10, 64)
	p := position{life: parts[0], index: index, id: parts[2]}
	if err != nil || !isULID(p.life) || !isULID(p.id) || p.name(prefix) != name {
		return position{}, false
	}
	return p, true
}

// parseRecovery reads the name of a recovery's metadata or claim.
func parseRecovery(clusterID, name, suffix string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(name, recoveryPrefix(clusterID))
	if !ok {
		return "", false
	}
	id, ok = strings.CutSuffix(rest, suffix)
	return id, ok && isULID(id) && id != firstLife
}

func isULID(s string) bool {
	id, err := ulid.ParseStrict(s)
	return err == nil && id.String() == s
}
