package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// FlipBit flips a bit of a file below dir whose name ends in suffix. Draw chooses the file and the bit, among those that
// were written. It returns the file's name, or "" where there is none.
func FlipBit(dir, suffix string, draw uint64) (string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, suffix) {
			files = append(files, path)
		}
		return err
	})
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
