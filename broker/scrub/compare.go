package scrub

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	// compareBytes and compareEntries bound the run of log entries that is compared at once: it ends with the entry that
	// makes it so many bytes.
	compareBytes   = 1 << 20
	compareEntries = 1024
	// digestTimeout bounds a question for a digest, with the time that the reading may take: the other node reads for one at
	// a time, and no faster than it may.
	digestTimeout = 30 * time.Second
)

// DivergedError says that a replica has other entries in its log than others of its group, where all have applied them and
// all checksums fit.
type DivergedError struct {
	// First and Last are the indexes of the run of entries that is not the same.
	First, Last uint64
	// Replica differs from Others.
	Replica string
	Others  []string
	// Majority are the replicas that agree among themselves, and are most of the group's voters and at least two. Without
	// them nobody knows who is right.
	Majority []string
}

// Error names the replicas and the run.
func (e *DivergedError) Error() string {
	others, who := e.Majority, "which agree and are a majority"
	if len(others) == 0 {
		others, who = e.Others, "and no majority agrees"
	}
	return fmt.Sprintf("replica %s has other log entries from index %d to %d than %s, %s", e.Replica, e.First, e.Last, strings.Join(others, ", "), who)
}

// comparison is of one replica with the voters of its group.
type comparison struct {
	s      *Scrubber
	r      Local
	id     string
	votes  bool     // the replica is a voter itself
	voters int      // of the group
	others []string // voters besides the replica that answer
}

// digest is what a replica has of a run.
type digest = [sha256.Size]byte

// begin asks who of the group's voters answers, and which of the replica's entries are compared. A voter of an older
// version, or whose scrubber is off, does not count.
func (s *Scrubber) begin(ctx context.Context, r Local) (c *comparison, first, last uint64) {
	st := r.Status()
	c = &comparison{s: s, r: r, id: st.ReplicaID}
	reach := uint64(0) // the least first index of the others
	for _, server := range st.Servers {
		if !server.Voter {
			continue
		}
		c.voters++
		if server.ReplicaID == c.id {
			c.votes = true
			continue
		}
		res, err := c.ask(ctx, server.ReplicaID, replica.Digest{})
		if err != nil {
			s.log.Debug("a replica does not tell what its log has", "shard", r.Shard, "metadata", r.IsMetadata, "replica", server.ReplicaID, "error", err)
			continue
		}
		from := res.GetFirstIndex()
		if from == 0 {
			from = res.GetAppliedIndex() + 1 // its log is empty
		}
		if len(c.others) == 0 || from < reach {
			reach = from
		}
		c.others = append(c.others, server.ReplicaID)
	}
	return c, max(r.FirstIndex(), reach, 1), st.AppliedIndex
}

// compare compares the log of a replica, as far as it has applied it, with the logs of the voters of its group. It returns how
// many entries another replica had too. The error is a *DivergedError or what hindered the reading.
func (s *Scrubber) compare(ctx context.Context, r Local) (compared uint64, err error) {
	c, first, last := s.begin(ctx, r)
	for first <= last && len(c.others) > 0 {
		n, next, err := c.run(ctx, first, last)
		compared += n
		s.metrics.compared.Add(float64(n))
		if err != nil {
			return compared, err
		}
		first = next
	}
	return compared, ctx.Err()
}

// compareAgain compares the run of entries that was different. It returns nil where it is the same now, and d where that
// can't be said.
func (s *Scrubber) compareAgain(ctx context.Context, r Local, d *DivergedError) error {
	c, _, _ := s.begin(ctx, r)
	compared, _, err := c.run(ctx, d.First, d.Last)
	switch {
	case isDamaged(err):
		return err
	case err != nil || compared == 0:
		return d
	default:
		return nil
	}
}

// run compares a run of entries that begins with first. It returns how many entries another replica had too, and where the
// next run begins. A difference counts once it was seen twice: what is read wrongly once is no damage.
func (c *comparison) run(ctx context.Context, first, last uint64) (compared, next uint64, err error) {
	last = min(last, first+compareEntries-1)
	var diverged *DivergedError
	for range 2 {
		own, err := c.r.Digest(ctx, first, last, min(compareBytes, c.s.cfg.BytesPerSecond))
		if errors.Is(err, raft.ErrLogNotFound) {
			return 0, max(first+1, c.r.FirstIndex()), nil // cut meanwhile
		}
		if err != nil {
			return 0, 0, err
		}
		if err := c.s.pace("log")(ctx, own.Bytes); err != nil {
			return 0, 0, err
		}
		has := c.askAll(ctx, own)
		if ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
		if len(has) == 0 {
			return 0, own.Last + 1, nil
		}
		if diverged = c.judge(own, has); diverged == nil {
			return own.Last - own.First + 1, own.Last + 1, nil
		}
		last = own.Last
	}
	return last - first + 1, last + 1, diverged
}

// askAll asks the others for their digests of a run. Who does not answer is not asked again.
func (c *comparison) askAll(ctx context.Context, own replica.Digest) map[string]digest {
	has := make(map[string]digest)
	c.others = slices.DeleteFunc(c.others, func(id string) bool {
		res, err := c.ask(ctx, id, own)
		if err != nil {
			c.s.log.Info("a replica can't be compared with another one", "shard", c.r.Shard, "metadata", c.r.IsMetadata, "replica", id, "error", err)
			return true
		}
		if sum := res.GetSha256(); len(sum) == sha256.Size {
			has[id] = digest(sum)
		}
		return false
	})
	return has
}

// ask asks one replica for the digest of a run, whose own digest says how long that may take, or for what it has.
func (c *comparison) ask(ctx context.Context, id string, own replica.Digest) (*nodev1.DigestLogResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, digestTimeout+4*c.s.takes(own.Bytes))
	defer cancel()
	client, err := c.s.cfg.Peers.Client(fsm.NodeOf(id))
	if err != nil {
		return nil, err
	}
	res, err := client.DigestLog(ctx, &nodev1.DigestLogRequest{Group: c.r.Group(), FirstIndex: own.First, LastIndex: own.Last})
	if err != nil {
		return nil, err
	}
	if res.GetReplicaId() != id {
		return nil, fmt.Errorf("its node has replica %q", res.GetReplicaId())
	}
	return res, nil
}

// judge returns nil where the replica agrees with all, or with a majority: then the others find their damage themselves.
func (c *comparison) judge(own replica.Digest, has map[string]digest) *DivergedError {
	agree := make(map[digest][]string)
	if c.votes {
		agree[own.Sum] = append(agree[own.Sum], c.id)
	}
	d := &DivergedError{First: own.First, Last: own.Last, Replica: c.id}
	for id, sum := range has {
		agree[sum] = append(agree[sum], id)
		if sum != own.Sum {
			d.Others = append(d.Others, id)
		}
	}
	if len(d.Others) == 0 {
		return nil
	}
	slices.Sort(d.Others)
	for sum, ids := range agree {
		if len(ids) < 2 || 2*len(ids) <= c.voters {
			continue
		}
		slices.Sort(ids)
		if sum == own.Sum {
			c.s.log.Warn("another replica has other log entries than the majority", "shard", c.r.Shard, "metadata", c.r.IsMetadata,
				"replicas", d.Others, "majority", ids, "first", own.First, "last", own.Last)
			return nil
		}
		d.Majority = ids
	}
	return d
}
