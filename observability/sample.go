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
	// errorBurst is how many errors that repeat are written before they are sampled: each may have another reason in its text.
	errorBurst = 20
	// maxSampled bounds the lines that are told apart.
	maxSampled = 1024
	// purgeEvery is how often room is made among them.
	purgeEvery = time.Second
)

// kind is whose names tell a line from others. Names are bounded by kind, so that many of one take no room from other lines.
type kind int

const (
	plain   kind = iota // what there are few of
	ours                // names that the node gives
	clients             // names and numbers that clients choose
	kinds
)

// maxOf bounds the lines of each kind that are told apart. Lines beyond it are told apart without the names.
var maxOf = [kinds]int{plain: maxSampled, ours: maxSampled / 2, clients: maxSampled / 16}

// subjects are the fields that say what a line is about: lines that differ in one of them are no repetition.
var subjects = map[string]kind{
	"code": plain, "method": plain, "node": plain, "part": plain, "peer": plain, "reason": plain, "replica": plain,
	"shard": plain, "step": plain,
	"object": ours,
	"topic":  clients, "partition": clients, "group": clients, "member": clients,
}

// sampler drops lines that repeat: of those with the same level, logger, message and subject the first is written, of errors
// the first errorBurst, and then at most one in sampleEvery, with the number of those that were dropped. They are new again
// after sampleEvery without any. What is asked for with the level debug is all written. Its memory is bounded: what comes when
// it is full is told apart by its level alone. What was dropped and no line told of is given back, to be written: of lines
// that make room for others by take, of the rest by due. Safe for concurrent use.
type sampler struct {
	now func() time.Time

	mu     sync.Mutex
	seen   map[uint64]*repeated // guarded by mu
	held   [kinds]int           // guarded by mu; how many of seen there are of a kind
	purged time.Time            // guarded by mu; when old lines were last looked for
}

// repeated is what is known of lines like one.
type repeated struct {
	untold

	kind    kind
	last    time.Time // of the last of them
	written time.Time // when the last of them was
	burst   int       // how many more are written at once
}

// untold is how many lines like one were dropped that no line has told of.
type untold struct {
	by      *handler // of the first of them
	level   slog.Level
	message string // empty for those that share a place
	dropped uint64
}

// line tells of them.
func (u untold) line(now time.Time) slog.Record {
	out := slog.NewRecord(now, u.level, "lines that repeat were dropped", 0)
	if u.message != "" {
		out.AddAttrs(slog.String("line", u.message))
	}
	out.AddAttrs(slog.Uint64("dropped", u.dropped))
	return out
}

// tell returns what is untold and takes it for told.
func (r *repeated) tell() untold {
	u := r.untold
	r.dropped = 0
	return u
}

func newSampler() *sampler { return &sampler{now: time.Now, seen: make(map[uint64]*repeated)} }

// subject is what tells a line from others.
type subject struct {
	whole uint64 // with all names
	bare  uint64 // with those alone that there are few of
	kind  kind
}

func subjectOf(by *handler, r *slog.Record) subject {
	key := hashString(by.about+uint64(r.Level), r.Message) //nolint:gosec // any number will do
	s := subject{whole: key, bare: key}
	r.Attrs(func(a slog.Attr) bool {
		if k, ok := subjects[a.Key]; ok {
			value := a.Value.String()
			s.whole = hashString(hashString(s.whole, a.Key), value)
			if k == plain {
				s.bare = hashString(hashString(s.bare, a.Key), value)
			}
			s.kind = max(s.kind, k)
		}
		return true
	})
	return s
}

// take reports whether a line is to be written, and how many like it were dropped since the last that was. What is in
// forgotten is to be written too: nobody will ask for it again.
func (s *sampler) take(by *handler, r *slog.Record) (dropped uint64, ok bool, forgotten []untold) {
	if r.Level < slog.LevelInfo {
		return 0, true, nil
	}
	about := subjectOf(by, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	seen := s.seen[about.whole]
	if seen == nil {
		if len(s.seen) >= maxSampled || s.held[about.kind] >= maxOf[about.kind] {
			forgotten = s.purgeLocked(now)
		}
		seen = s.placeLocked(about, by, r)
	}
	if now.Sub(seen.last) >= sampleEvery {
		seen.burst = 1
		if r.Level >= slog.LevelError {
			seen.burst = errorBurst
		}
	}
	seen.last = now
	if seen.burst == 0 && now.Sub(seen.written) < sampleEvery {
		seen.dropped++
		return 0, false, forgotten
	}
	seen.burst = max(seen.burst-1, 0)
	seen.written = now
	return seen.tell().dropped, true, forgotten
}

// due returns what was dropped of lines of which none was written for sampleEvery, or of all.
func (s *sampler) due(all bool) []untold {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	out := s.forgetLocked(now)
	for _, r := range s.seen {
		if r.dropped > 0 && (all || now.Sub(r.written) >= sampleEvery) {
			out = append(out, r.tell())
		}
	}
	return out
}

// purgeLocked makes room where that was not tried just now.
func (s *sampler) purgeLocked(now time.Time) []untold {
	if now.Sub(s.purged) < purgeEvery {
		return nil
	}
	s.purged = now
	return s.forgetLocked(now)
}

// forgetLocked takes out the lines that have not come for sampleEvery, and returns what is untold of them.
func (s *sampler) forgetLocked(now time.Time) (forgotten []untold) {
	for k, r := range s.seen {
		if now.Sub(r.last) < sampleEvery {
			continue
		}
		delete(s.seen, k)
		s.held[r.kind]--
		if r.dropped > 0 {
			forgotten = append(forgotten, r.untold)
		}
	}
	return forgotten
}

// placeLocked returns a place for a line that has none, and where its kind has none left or all are taken one that it
// shares with others.
func (s *sampler) placeLocked(about subject, by *handler, r *slog.Record) *repeated {
	if s.held[about.kind] >= maxOf[about.kind] {
		about.whole, about.kind = about.bare, plain
		if shared := s.seen[about.whole]; shared != nil {
			return shared
		}
	}
	seen := &repeated{untold: untold{by: by, level: r.Level, message: r.Message}, kind: about.kind}
	if len(s.seen) >= maxSampled {
		about.whole, seen.kind = uint64(r.Level), plain //nolint:gosec // any number will do
		if shared := s.seen[about.whole]; shared != nil {
			return shared
		}
		seen.by, seen.message = by.root(), ""
	}
	s.seen[about.whole] = seen
	s.held[seen.kind]++
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
