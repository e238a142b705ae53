package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Damage is something that happens to one file of a stopped node.
type Damage struct {
	// Name says what happens.
	Name string
	Do   func(path string) error
}

// Damages are what a disk does to a file.
var Damages = []Damage{
	{"flipped bit", FlipBit},
	{"cut file", Cut},
	{"missing file", os.Remove},
}

// Files returns the regular files below a directory whose path the function accepts, the largest last.
func Files(tb testing.TB, dir string, accept func(path string) bool) []string {
	tb.Helper()
	type file struct {
		path string
		size int
	}
	var files []file
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !accept(path) {
			return err
		}
		used, err := usedBytes(path)
		files = append(files, file{path, used})
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		tb.Fatal(err)
	}
	slices.SortFunc(files, func(a, b file) int { return a.size - b.size })
	paths := make([]string, 0, len(files))
	for _, f := range files {
		paths = append(paths, f.path)
	}
	return paths
}

// usedBytes is the length of a file without the zeros at its end, which are only reserved.
func usedBytes(path string) (int, error) {
	b, err := os.ReadFile(path)
	return len(bytes.TrimRight(b, "\x00")), err
}

// FlipBit flips one bit in the middle of what is used of a file.
func FlipBit(path string) error {
	used, err := usedBytes(path)
	if err != nil {
		return err
	}
	return FlipBitAt(path, int64(used/2))
}

// FlipBitOf flips one bit where a text stands in a file, behind the middle of what is used of it: what is between entries
// of a log is looked at by nobody who does not open it anew.
func FlipBitOf(path, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	middle := len(bytes.TrimRight(b, "\x00")) / 2
	at := bytes.Index(b[middle:], []byte(text))
	if at < 0 {
		return fmt.Errorf("%s does not have %q behind its middle", path, text)
	}
	return FlipBitAt(path, int64(middle+at))
}

// FlipBitAt flips one bit of a file.
func FlipBitAt(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err = f.ReadAt(b[:], at); err == nil {
		b[0] ^= 0x10
		_, err = f.WriteAt(b[:], at)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("flip a bit of %s at %d: %w", path, at, err)
	}
	return nil
}

// Cut cuts a file in the middle of what is used of it.
func Cut(path string) error {
	used, err := usedBytes(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, int64(used/2))
}
