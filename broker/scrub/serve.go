package scrub

import (
	"context"
	"math"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

// DigestLog sums up a run of log entries for another node, one at a time and no faster than the scrubber may read. The
// answer has no digest where the replica has not applied the whole run or has cut or damaged it, or where the scrubber is
// off; its own round finds the damage. The error is ctx's.
func (s *Scrubber) DigestLog(ctx context.Context, req *nodev1.DigestLogRequest) (*nodev1.DigestLogResponse, error) {
	r, ok := s.local(req.GetGroup())
	if !ok || s.cfg.BytesPerSecond == 0 {
		return &nodev1.DigestLogResponse{}, nil
	}
	st := r.Status()
	res := &nodev1.DigestLogResponse{ReplicaId: st.ReplicaID, FirstIndex: r.FirstIndex(), AppliedIndex: st.AppliedIndex}
	first, last := req.GetFirstIndex(), req.GetLastIndex()
	if first == 0 || first > last || last-first >= compareEntries || first < res.GetFirstIndex() || last > st.AppliedIndex {
		return res, nil
	}
	select {
	case s.serving <- struct{}{}:
		defer func() { <-s.serving }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d, err := r.Digest(ctx, first, last, math.MaxInt64)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return res, nil // it does not have the run
	}
	if err := s.pace("log")(ctx, d.Bytes); err != nil {
		return nil, err
	}
	res.Sha256 = d.Sum[:]
	return res, nil
}

// local finds this node's replica of a group.
func (s *Scrubber) local(group *nodev1.Group) (Local, bool) {
	for _, r := range s.cfg.Replicas() {
		if r.IsMetadata == group.GetMetadata() && (r.IsMetadata || r.Shard == group.GetShard()) {
			return r, true
		}
	}
	return Local{}, false
}
