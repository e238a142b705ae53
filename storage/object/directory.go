package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/streamhouse/streamhouse/internal/disk"
)

// temporaryPrefix begins the names of files that are being written; no object has such a name.
const temporaryPrefix = ".tmp-"

// directory is a Bucket of files. An object appears whole and on disk, by link(2), which refuses an existing name.
type directory struct{ root string }

var _ Bucket = (*directory)(nil)

// NewDirectory returns a bucket of the files below root, which is made when it is missing.
func NewDirectory(root string) (Bucket, error) {
	if err := os.MkdirAll(root, 0o750); err != nil {
		return nil, fmt.Errorf("%w: file://%s: %w", ErrDenied, root, err)
	}
	return &directory{root: root}, nil
}

func (d *directory) path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// Put implements Bucket.
func (d *directory) Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return err
	}
	path := d.path(name)
	if err := d.makeParents(filepath.Dir(path)); err != nil {
		return fileError(name, err)
	}
	tmp, err := os.CreateTemp(d.root, temporaryPrefix)
	if err != nil {
		return fileError(name, err)
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // the link is what counts
	if err := writeAll(ctx, tmp, body, sizeBytes); err != nil {
		return fileError(name, err)
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return fileError(name, err)
	}
	return fileError(name, disk.Sync(filepath.Dir(path)))
}

func writeAll(ctx context.Context, f *os.File, body io.ReadSeeker, sizeBytes int64) error {
	_, err := body.Seek(0, io.SeekStart)
	if err == nil {
		var n int64
		if n, err = io.Copy(f, &contextReader{ctx, body}); err == nil && n != sizeBytes {
			err = fmt.Errorf("body has %d bytes, announced were %d", n, sizeBytes)
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// makeParents makes the directories of a path durable, from the top.
func (d *directory) makeParents(dir string) error {
	if _, err := os.Stat(dir); err == nil || dir == d.root {
		return err
	}
	if err := d.makeParents(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return disk.Sync(filepath.Dir(dir))
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // it lives for one call
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Get implements Bucket.
func (d *directory) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return nil, err
	}
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, fileError(name, err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(fileError(name, err), f.Close())
	}
	var r io.Reader = &contextReader{ctx, f}
	if length >= 0 {
		r = io.LimitReader(r, length)
	}
	return struct {
		io.Reader
		io.Closer
	}{r, f}, nil
}

// Head implements Bucket.
func (d *directory) Head(ctx context.Context, name string) (Attributes, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return Attributes{}, err
	}
	st, err := os.Stat(d.path(name))
	if err == nil && st.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Attributes{}, fileError(name, err)
	}
	return Attributes{Name: name, SizeBytes: st.Size(), ModTime: st.ModTime()}, nil
}

// List implements Bucket, with all objects at once.
func (d *directory) List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error) {
	dir, _, _ := cutLast(prefix, "/")
	err = filepath.WalkDir(d.path(dir), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile, or nothing there
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(d.root, path)
		name := filepath.ToSlash(rel)
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), temporaryPrefix) || !strings.HasPrefix(name, prefix) || name <= after {
			return err
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			page = append(page, Attributes{Name: name, SizeBytes: st.Size(), ModTime: st.ModTime()})
		}
		return err
	})
	if err != nil {
		return nil, false, fileError(prefix, err)
	}
	slices.SortFunc(page, func(a, b Attributes) int { return strings.Compare(a.Name, b.Name) })
	return page, false, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// Delete implements Bucket.
func (d *directory) Delete(ctx context.Context, name string) error {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return err
	}
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileError(name, err)
	}
	return nil
}

// fileError gives a file's error the class that a Bucket's caller knows.
func fileError(name string, err error) error {
	var class error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		class = ErrExists
	case errors.Is(err, fs.ErrNotExist):
		class = ErrNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		class = ErrDenied
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("object %s: %w", name, err)
	default:
		class = ErrUnavailable
	}
	return fmt.Errorf("object %s: %w: %w", name, class, err)
}
