package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// filesOf returns the files below dir whose names end in suffix.
func filesOf(dir, suffix string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, suffix) {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// FlipBitOf flips the lowest bit of the first byte of text, in every file below dir whose name ends in suffix and that has
// it. It returns how many have.
func FlipBitOf(dir, suffix, text string) (int, error) {
	files, err := filesOf(dir, suffix)
	n := 0
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return n, err
		}
		at := bytes.Index(b, []byte(text))
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return n, err
		}
		_, err = f.WriteAt([]byte{b[at] ^ 1}, int64(at))
		if err = errors.Join(err, f.Close()); err != nil {
			return n, err
		}
		n++
	}
	return n, err
}

// FlipBit flips a bit of a file below dir whose name ends in suffix. Draw chooses the file and the bit, among those that
// were written. It returns the file's name, or "" where there is none.
func FlipBit(dir, suffix string, draw uint64) (string, error) {
	files, err := filesOf(dir, suffix)
	if err != nil || len(files) == 0 {
		return "", err
	}
	path := files[draw%uint64(len(files))]
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	return path, errors.Join(flip(f, draw), f.Close())
}

// flip flips a bit in the first data of a file: behind it are holes, which nobody has written.
func flip(f *os.File, draw uint64) error {
	end, err := f.Seek(0, unix.SEEK_HOLE)
	if err != nil {
		return err
	}
	if end == 0 {
		return nil
	}
	at := int64(draw>>8) & (1<<40 - 1) % end
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 1 << (draw % 8)
	_, err = f.WriteAt(b[:], at)
	return err
}
