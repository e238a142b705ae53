package observability

import (
	"hash/maphash"
	"log/slog"
	"sync"
	"time"
)

const (
	// sampleEvery is how often a line is written that repeats.
	sampleEvery = 10 * time.Second
	// maxSampled bounds the lines that are told apart.
	maxSampled = 1024
	// purgeEvery is how often room is made among them.
	purgeEvery = time.Second
)

// subjects are the fields that say what a line is about: lines that differ in one of them are no repetition. None has values
// that a client chooses, who could take all the room with them.
var subjects = map[string]bool{
	"code": true, "method": true, "node": true, "part": true, "peer": true, "reason": true, "replica": true, "shard": true,
	"step": true,
}

// sampler drops lines that repeat: of those with the same level, logger, message and subject the first is written, and then
// at most one in sampleEvery, with the number of those that were dropped. What is asked for with the level debug is all
// written. Its memory is bounded: what comes when it is full is told apart by its level alone. Safe for concurrent use.
type sampler struct {
	now func() time.Time

	mu     sync.Mutex
	seen   map[uint64]*repeated // guarded by mu
	purged time.Time            // guarded by mu; when old lines were last looked for
}

type repeated struct {
	written time.Time
	dropped uint64
}

func newSampler() *sampler { return &sampler{now: time.Now, seen: make(map[uint64]*repeated)} }

// take reports whether a line is to be written, and how many like it were dropped since the last that was.
func (s *sampler) take(about uint64, r *slog.Record) (dropped uint64, ok bool) {
	if r.Level < slog.LevelInfo {
		return 0, true
	}
	key := hashString(about+uint64(r.Level), r.Message) //nolint:gosec // any number will do
	r.Attrs(func(a slog.Attr) bool {
		if subjects[a.Key] {
			key = hashString(hashString(key, a.Key), a.Value.String())
		}
		return true
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	seen := s.seen[key]
	if seen == nil {
		seen = s.addLocked(key, uint64(r.Level), now) //nolint:gosec // as above
	}
	if !seen.written.IsZero() && now.Sub(seen.written) < sampleEvery {
		seen.dropped++
		return 0, false
	}
	dropped = seen.dropped
	seen.written, seen.dropped = now, 0
	return dropped, true
}

// addLocked returns a place for a key, and where all are taken one that many share.
func (s *sampler) addLocked(key, shared uint64, now time.Time) *repeated {
	if len(s.seen) >= maxSampled && now.Sub(s.purged) >= purgeEvery {
		s.purged = now
		for k, r := range s.seen {
			if now.Sub(r.written) >= sampleEvery {
				delete(s.seen, k)
			}
		}
	}
	if len(s.seen) >= maxSampled {
		key = shared
		if r := s.seen[key]; r != nil {
			return r
		}
	}
	r := &repeated{}
	s.seen[key] = r
	return r
}

var hashSeed = maphash.MakeSeed()

func hashString(h uint64, s string) uint64 {
	const odd = 0x9e3779b97f4a7c15
	return (h ^ maphash.String(hashSeed, s)) * odd
}

func hashAttrs(h uint64, attrs []slog.Attr) uint64 {
	for _, a := range attrs {
		h = hashString(hashString(h, a.Key), a.Value.String())
	}
	return h
}
