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
// written. Its memory is bounded: what comes when it is full is told apart by its level alone, and the numbers of what makes
// room for it are given back, to be written. Safe for concurrent use.
type sampler struct {
	now func() time.Time

	mu     sync.Mutex
	seen   map[uint64]*repeated // guarded by mu
	purged time.Time            // guarded by mu; when old lines were last looked for
}

// repeated is what is known of lines like one.
type repeated struct {
	by      *handler // of the first of them
	level   slog.Level
	message string // empty for those that share a place
	written time.Time
	dropped uint64
}

// line tells how many lines were dropped that nothing else will tell of.
func (r *repeated) line(now time.Time) slog.Record {
	out := slog.NewRecord(now, r.level, "lines that repeat were dropped", 0)
	if r.message != "" {
		out.AddAttrs(slog.String("line", r.message))
	}
	out.AddAttrs(slog.Uint64("dropped", r.dropped))
	return out
}

func newSampler() *sampler { return &sampler{now: time.Now, seen: make(map[uint64]*repeated)} }

// take reports whether a line is to be written, and how many like it were dropped since the last that was. Of forgotten the
// numbers are to be written, which nobody will ask for again.
func (s *sampler) take(by *handler, r *slog.Record) (dropped uint64, ok bool, forgotten []*repeated) {
	if r.Level < slog.LevelInfo {
		return 0, true, nil
	}
	key := hashString(by.about+uint64(r.Level), r.Message) //nolint:gosec // any number will do
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
		if len(s.seen) >= maxSampled {
			forgotten = s.purgeLocked(now)
		}
		seen = s.addLocked(key, by, r)
	}
	if !seen.written.IsZero() && now.Sub(seen.written) < sampleEvery {
		seen.dropped++
		return 0, false, forgotten
	}
	dropped = seen.dropped
	seen.written, seen.dropped = now, 0
	return dropped, true, forgotten
}

// purgeLocked makes room where that was not tried just now, and returns what it took out with numbers to tell.
func (s *sampler) purgeLocked(now time.Time) (forgotten []*repeated) {
	if now.Sub(s.purged) < purgeEvery {
		return nil
	}
	s.purged = now
	for k, r := range s.seen {
		if now.Sub(r.written) < sampleEvery {
			continue
		}
		delete(s.seen, k)
		if r.dropped > 0 {
			forgotten = append(forgotten, r)
		}
	}
	return forgotten
}

// addLocked returns a place for a key, and where all are taken one that many share.
func (s *sampler) addLocked(key uint64, by *handler, r *slog.Record) *repeated {
	seen := &repeated{by: by, level: r.Level, message: r.Message}
	if len(s.seen) >= maxSampled {
		key = uint64(r.Level) //nolint:gosec // any number will do
		if shared := s.seen[key]; shared != nil {
			return shared
		}
		seen.by, seen.message = by.root(), ""
	}
	s.seen[key] = seen
	return seen
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
