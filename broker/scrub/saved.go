package scrub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/streamhouse/streamhouse/internal/disk"
)

// savedVersion is that of the file. A newer one is not read.
const savedVersion = 1

// saved is what is kept in a file over a restart. Without the file, nothing is lost but time: it is found again.
type saved struct {
	Version int `json:"version"`
	// RoundBegan is when the last whole round began.
	RoundBegan time.Time `json:"round_began"`
	// DamagedObjects are their names.
	DamagedObjects []string `json:"damaged_objects"`
}

// load reads what an earlier run has found. Where it can't be read a round is due, since nobody knows what was found; at the
// first start there was nothing to find.
func (s *Scrubber) load() {
	s.began = time.Now()
	was, err := readSaved(s.cfg.StatePath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.unsaved = true
		return
	case err != nil:
		s.log.Warn("what was found damaged before is not known, all is read again", "file", s.cfg.StatePath, "error", err)
		s.began, s.unsaved = time.Time{}, true
		return
	}
	s.began = was.RoundBegan
	for _, name := range was.DamagedObjects[:min(len(was.DamagedObjects), maxDamagedObjects)] {
		s.damaged[name] = &noted{at: time.Now()}
	}
	s.metrics.objects.Set(float64(len(s.damaged)))
}

func readSaved(path string) (saved, error) {
	if path == "" {
		return saved{}, fs.ErrNotExist
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return saved{}, err
	}
	var was saved
	if err := json.Unmarshal(data, &was); err != nil {
		return saved{}, err
	}
	if was.Version != savedVersion {
		return saved{}, fmt.Errorf("it has version %d, not %d", was.Version, savedVersion)
	}
	return was, nil
}

// save writes what has changed. What can't be written is written a minute later.
func (s *Scrubber) save() {
	s.mu.Lock()
	unsaved := s.unsaved
	now := saved{Version: savedVersion, RoundBegan: s.began, DamagedObjects: slices.Sorted(maps.Keys(s.damaged))}
	s.unsaved = false
	s.mu.Unlock()
	if !unsaved || s.cfg.StatePath == "" {
		return
	}
	if err := writeSaved(s.cfg.StatePath, now); err != nil {
		s.log.Warn("what was found damaged is not kept for a restart yet", "file", s.cfg.StatePath, "error", err)
		s.mu.Lock()
		s.unsaved = true
		s.mu.Unlock()
	}
}

func writeSaved(path string, now saved) error {
	data, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return disk.WriteFile(path, data, 0o600)
}
