// Package faultydisk has a disk that errs or crawls when a test tells it to: a directory that the test's own process serves
// through FUSE. It is a package of its own so that only who asks for such a disk needs the library.
package faultydisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Operations of files that a disk can make fail or crawl.
const (
	Read  = "read"
	Write = "write"
	Sync  = "fsync"
)

// Disk is a directory served by this process, whose reads, writes and fsyncs fail or crawl when they are told to. It
// needs root, Linux and /dev/fuse. Its methods are safe for concurrent use.
type Disk struct {
	// Dir is a directory on it.
	Dir string

	mu    sync.Mutex
	fault Fault // guarded by mu
	hits  int   // guarded by mu; operations that have failed since Fail
}

// Fault says what a Disk does to the operations that it matches.
type Fault struct {
	// Op is one of Read, Write and Sync; empty matches all three.
	Op string
	// Path must be part of the file's path; empty matches all files.
	Path string
	// Delay comes before the operation.
	Delay time.Duration
	// Err fails it; 0 lets it pass.
	Err syscall.Errno
}

// New mounts such a directory for the time of the test.
func New(tb testing.TB) *Disk {
	tb.Helper()
	dir := tb.TempDir()
	backing, mount := filepath.Join(dir, "backing"), filepath.Join(dir, "mount")
	for _, d := range []string{backing, mount} {
		if err := os.Mkdir(d, 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	root, err := fs.NewLoopbackRoot(backing)
	if err != nil {
		tb.Fatal(err)
	}
	loopback, ok := root.(*fs.LoopbackNode)
	if !ok {
		tb.Fatalf("the root of a loopback file system is a %T", root)
	}
	d := &Disk{Dir: filepath.Join(mount, "data")}
	server, err := fs.Mount(mount, &faultyNode{loopback, d}, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: backing, Name: "faulty", DisableXAttrs: true,
	}})
	if err != nil {
		tb.Fatalf("mount a disk that fails (it needs root and /dev/fuse): %v", err)
	}
	tb.Cleanup(func() {
		d.Heal()
		if err := server.Unmount(); err != nil {
			tb.Errorf("unmount %s: %v", mount, err)
			return
		}
		server.Wait()
	})
	return d
}

// Fail does this to all operations that match from now on, instead of what was told before.
func (d *Disk) Fail(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.hits = f, 0
}

// Heal makes it a good disk again.
func (d *Disk) Heal() { d.Fail(Fault{}) }

// Hits is the number of operations that failed or were delayed since the last call of Fail.
func (d *Disk) Hits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hits
}

// before is called before an operation; it returns what the operation fails with.
func (d *Disk) before(ctx context.Context, op, path string) syscall.Errno {
	d.mu.Lock()
	f := d.fault
	hit := (f.Err != 0 || f.Delay > 0) && (f.Op == "" || f.Op == op) && strings.Contains(path, f.Path)
	if hit {
		d.hits++
	}
	d.mu.Unlock()
	if !hit {
		return fs.OK
	}
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return f.Err
}

// faultyNode is a file or directory of a Disk.
type faultyNode struct {
	*fs.LoopbackNode

	disk *Disk
}

var (
	_ fs.NodeWrapChilder = (*faultyNode)(nil)
	_ fs.NodeOpener      = (*faultyNode)(nil)
	_ fs.NodeCreater     = (*faultyNode)(nil)
	_ fs.NodeFsyncer     = (*faultyNode)(nil)
)

// WrapChild makes what is in a faulty directory faulty, too.
func (n *faultyNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	child, ok := ops.(*fs.LoopbackNode)
	if !ok {
		panic(fmt.Sprintf("the child of a loopback node is a %T", ops))
	}
	return &faultyNode{child, n.disk}
}

func (n *faultyNode) path() string { return n.Path(nil) }

// Open opens a file.
func (n *faultyNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != fs.OK {
		return nil, 0, errno
	}
	return n.wrap(h, n.path()), fuseFlags, fs.OK
}

// Create makes a file and opens it.
func (n *faultyNode) Create(
	ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut,
) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, h, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != fs.OK {
		return nil, nil, 0, errno
	}
	return inode, n.wrap(h, filepath.Join(n.path(), name)), fuseFlags, fs.OK
}

func (n *faultyNode) wrap(h fs.FileHandle, path string) fs.FileHandle {
	f, ok := h.(*fs.LoopbackFile)
	if !ok {
		panic(fmt.Sprintf("a file of a loopback node is a %T", h))
	}
	return &faultyFile{f, n.disk, path}
}

// Fsync makes a file durable, or a directory, which has no handle of ours.
func (n *faultyNode) Fsync(ctx context.Context, h fs.FileHandle, flags uint32) syscall.Errno {
	if f, ok := h.(*faultyFile); ok {
		return f.Fsync(ctx, flags)
	}
	return n.disk.before(ctx, Sync, n.path())
}

// faultyFile is an open file of a Disk.
type faultyFile struct {
	*fs.LoopbackFile

	disk *Disk
	path string
}

// PassthroughFd keeps the kernel from passing this process by.
func (f *faultyFile) PassthroughFd() (int, bool) { return 0, false }

// Read reads, unless it fails.
func (f *faultyFile) Read(ctx context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := f.disk.before(ctx, Read, f.path); errno != fs.OK {
		return nil, errno
	}
	return f.LoopbackFile.Read(ctx, buf, off)
}

// Write writes, unless it fails.
func (f *faultyFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.disk.before(ctx, Write, f.path); errno != fs.OK {
		return 0, errno
	}
	return f.LoopbackFile.Write(ctx, data, off)
}

// Fsync syncs, unless it fails.
func (f *faultyFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := f.disk.before(ctx, Sync, f.path); errno != fs.OK {
		return errno
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}

var errDiskDoesNotFail = errors.New("the disk has failed nothing yet")

// CheckHit returns nil once the disk has failed something since the last call of Fail.
func (d *Disk) CheckHit(context.Context) error {
	if d.Hits() == 0 {
		return errDiskDoesNotFail
	}
	return nil
}
