package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
)

var (
	// ErrClaimed says that another node begins the recovered cluster.
	ErrClaimed = errors.New("another node has claimed the recovery")
	// ErrStale says that the old cluster has gone on since the recovery was prepared.
	ErrStale = errors.New("the cluster has gone on since the recovery was prepared: run streamhouse cluster recover again")
	// ErrSuperseded says that the cluster was recovered from its object store since, without this node.
	ErrSuperseded = errors.New("the cluster was recovered from its object store, and this node's files are of before")
)

// Claim says who begins a recovered cluster.
type Claim struct {
	NodeID      string `json:"node_id"`
	Incarnation string `json:"incarnation"`
	RaftAddr    string `json:"raft_addr"`
}

// lives are the recoveries of a cluster, by their ULIDs.
type lives struct {
	pending, claimed string   // the newest ones
	begun            []string // all that were claimed, the oldest first
}

func readLives(ctx context.Context, b object.Lister, clusterID string) (lives, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var l lives
	err := object.All(ctx, b, recoveryPrefix(clusterID), func(a object.Attributes) error {
		if id, ok := parseRecovery(clusterID, a.Name, metaSuffix); ok {
			l.pending = max(l.pending, id)
		}
		if id, ok := parseRecovery(clusterID, a.Name, claimSuffix); ok {
			l.claimed = max(l.claimed, id)
			l.begun = append(l.begun, id)
		}
		return nil
	})
	if err != nil {
		return lives{}, fmt.Errorf("list recoveries of cluster %s: %w", clusterID, err)
	}
	slices.Sort(l.begun)
	return l, nil
}

// Newest returns the newest recovery of a cluster that a node has begun; empty for none.
func Newest(ctx context.Context, b object.Lister, clusterID string) (recoveryID string, err error) {
	l, err := readLives(ctx, b, clusterID)
	return l.claimed, err
}

// Superseded returns ErrSuperseded where the cluster was recovered after recoveryID, which is empty for a node of its
// first life. Any other error says that the object store does not answer.
func Superseded(ctx context.Context, b object.Lister, clusterID, recoveryID string) error {
	newest, err := Newest(ctx, b, clusterID)
	if err != nil {
		return err
	}
	if newest > recoveryID {
		return fmt.Errorf("%w (recovery %s)", ErrSuperseded, newest)
	}
	return nil
}

// Take claims the newest recovery that was prepared, and returns the metadata to begin with. It may be called again by
// the same incarnation. Without a recovery that is newer than all that were claimed by others, View is nil. The errors
// are ErrClaimed with who it was, ErrStale, and those of the object store.
func Take(ctx context.Context, b Bucket, clusterID string, c Claim) (*fsm.View, Claim, error) {
	l, err := readLives(ctx, b, clusterID)
	if err != nil || l.pending == "" {
		return nil, Claim{}, err
	}
	if l.claimed >= l.pending {
		return took(ctx, b, clusterID, l.claimed, c)
	}
	v, err := readView(ctx, b, recoveryName(clusterID, l.pending))
	if err != nil {
		return nil, Claim{}, fmt.Errorf("recovery: %w", err)
	}
	newest, err := newestBase(ctx, b, clusterID, l.claimed)
	if err != nil {
		return nil, Claim{}, err
	}
	if newest != v.RecoveredFrom() {
		return nil, Claim{}, fmt.Errorf("%w (recovery %s)", ErrStale, l.pending)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, Claim{}, fmt.Errorf("encode claim: %w", err)
	}
	// Whatever the answer is, who has it is what the object says.
	if err := put(ctx, b, claimName(clusterID, l.pending), data); err != nil && !errors.Is(err, object.ErrExists) {
		if _, there := readClaim(ctx, b, clusterID, l.pending); there != nil {
			return nil, Claim{}, err
		}
	}
	return took(ctx, b, clusterID, l.pending, c)
}

// took returns the metadata of a recovery that is claimed, when it is by this claim.
func took(ctx context.Context, b Bucket, clusterID, id string, c Claim) (*fsm.View, Claim, error) {
	by, err := readClaim(ctx, b, clusterID, id)
	if err != nil {
		return nil, Claim{}, err
	}
	if by.Incarnation != c.Incarnation {
		return nil, by, fmt.Errorf("%w: node %s has recovery %s", ErrClaimed, by.NodeID, id)
	}
	v, err := readView(ctx, b, recoveryName(clusterID, id))
	if err != nil {
		return nil, Claim{}, fmt.Errorf("recovery: %w", err)
	}
	return v, by, nil
}

// maxClaimBytes bounds a claim that is read.
const maxClaimBytes = 64 << 10

func readClaim(ctx context.Context, b Bucket, clusterID, id string) (Claim, error) {
	data, err := get(ctx, b, claimName(clusterID, id), maxClaimBytes)
	if err != nil {
		return Claim{}, err
	}
	return parseClaim(data)
}

func parseClaim(data []byte) (Claim, error) {
	var c Claim
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("claim does not decode: %w", err)
	}
	if c.NodeID == "" || c.Incarnation == "" {
		return c, errors.New("claim names no node")
	}
	return c, nil
}

// newestBase returns the name of the newest checkpoint, the recovery that was claimed last counting as one.
func newestBase(ctx context.Context, b object.Lister, clusterID, claimed string) (string, error) {
	bases, err := listBases(ctx, b, clusterID, claimed)
	if err != nil || len(bases) == 0 {
		return "", err
	}
	return bases[len(bases)-1].Name, nil
}

// listBases returns what a recovery can be made from, the newest last.
func listBases(ctx context.Context, b object.Lister, clusterID, claimed string) ([]stored, error) {
	all, err := listStored(ctx, b, metadataPrefix(clusterID))
	if err != nil || claimed == "" {
		return all, err
	}
	begin := stored{position{life: claimed, index: 1}, object.Attributes{Name: recoveryName(clusterID, claimed)}}
	at := len(all)
	for at > 0 && begin.compare(all[at-1].position) < 0 {
		at--
	}
	return append(all[:at:at], append([]stored{begin}, all[at:]...)...), nil
}
