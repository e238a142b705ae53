package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// PowerDisk is a file system of its own, in a file, whose power can be cut: then only what was synced is left. The same
// file system is a full disk, where that is wanted. It needs root, Linux, and mkfs.xfs and xfs_io of xfsprogs.
type PowerDisk struct {
	// Dir is a directory on it.
	Dir string

	image, mount string
}

// minPowerDiskBytes is the smallest file system that mkfs.xfs makes.
const minPowerDiskBytes = 300 << 20

// NewPowerDisk makes a disk of this size, at least 300 MiB, and mounts it for the time of the test. The file grows with
// what is written.
func NewPowerDisk(tb testing.TB, bytes int64) *PowerDisk {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("a disk whose power can be cut needs root: run the integration tests as root")
	}
	dir := tb.TempDir()
	d := &PowerDisk{image: filepath.Join(dir, "image"), mount: filepath.Join(dir, "mount")}
	d.Dir = filepath.Join(d.mount, "data")
	if err := errors.Join(d.format(bytes), os.Mkdir(d.mount, 0o700), d.attach()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.detach(); err != nil {
			tb.Error(err)
		}
	})
	return d
}

func (d *PowerDisk) format(bytes int64) error {
	f, err := os.Create(d.image)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(max(bytes, minPowerDiskBytes)), f.Close()); err != nil {
		return err
	}
	return command("mkfs.xfs", "-q", d.image)
}

func (d *PowerDisk) attach() error {
	return command("mount", "-t", "xfs", "-o", "loop", d.image, d.mount)
}
func (d *PowerDisk) detach() error { return command("umount", d.mount) }

// Cut cuts the power: from now on every operation fails, and what was not synced is gone. End who uses the disk, and then
// call Restore.
func (d *PowerDisk) Cut() error { return command("xfs_io", "-x", "-c", "shutdown", d.mount) }

// Restore brings back what was synced. Nobody may have a file open.
func (d *PowerDisk) Restore() error { return errors.Join(d.detach(), d.attach()) }

// filler is what takes the space of a full disk.
func (d *PowerDisk) filler() string { return filepath.Join(d.mount, "filler") }

// roughBytes is what Fill leaves for writes to take: the file system needs some space itself for a large file.
const roughBytes = 4 << 20

// Fill takes all space but about these bytes.
func (d *PowerDisk) Fill(leave int64) error {
	free, err := d.free()
	if err != nil {
		return err
	}
	if rough := free - max(leave, roughBytes); rough > 0 {
		if err := command("fallocate", "-l", fmt.Sprint(rough), d.filler()); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(d.filler(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	block := make([]byte, 16<<10)
	for err == nil && free > leave {
		if _, err = f.Write(block); err == nil {
			free, err = d.free()
		}
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = nil // full it is
	}
	return errors.Join(err, f.Close())
}

// free is how many bytes can still be written.
func (d *PowerDisk) free() (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.mount, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", d.mount, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // its type differs between systems
}

// Free gives the space back that Fill took.
func (d *PowerDisk) Free() error {
	if err := os.Remove(d.filler()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// command runs a program of the system, and says what it said where it fails.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput() //nolint:gosec,noctx // the harness's own arguments
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
