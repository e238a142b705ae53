package harness

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// Disk is a file system of its own, in a file, whose writes can be made to stall. It needs root, Linux, mkfs.ext4, mount,
// fallocate and fsfreeze.
type Disk struct {
	// Dir is a directory on it.
	Dir string

	tb     testing.TB
	mount  string
	frozen io.Closer // lets the disk go on
	holder *exec.Cmd
}

// NewDisk makes a disk of this size and mounts it for the time of the test.
func NewDisk(tb testing.TB, bytes int64) *Disk {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("a disk that stalls needs root: run the integration tests as root")
	}
	dir := tb.TempDir()
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	f, err := os.Create(image)
	if err != nil {
		tb.Fatal(err)
	}
	if err := f.Truncate(bytes); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := os.Mkdir(mount, 0o700); err != nil {
		tb.Fatal(err)
	}
	d := &Disk{Dir: filepath.Join(mount, "data"), tb: tb, mount: mount}
	d.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	d.run("mount", "-o", "loop", image, mount)
	tb.Cleanup(func() { d.run("umount", mount) })
	return d
}

func (d *Disk) run(name string, args ...string) {
	d.tb.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil { //nolint:gosec,noctx // the harness's own arguments
		d.tb.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// Fill gives space of the disk to a file, until the function that it returns removes that.
func (d *Disk) Fill(bytes int64) (remove func()) {
	d.tb.Helper()
	ballast := filepath.Join(d.mount, "ballast")
	d.run("fallocate", "-l", strconv.FormatInt(bytes, 10), ballast)
	return func() {
		if err := os.Remove(ballast); err != nil {
			d.tb.Error(err)
		}
	}
}

// Stall makes every write and fsync wait until Resume. A child holds it, and lets go when this process ends in any way: a
// process that waits for a disk can't even be killed.
func (d *Disk) Stall() {
	d.tb.Helper()
	const script = `fsfreeze -f "$1" || exit 1; echo stalled; read -r _; fsfreeze -u "$1"`
	d.holder = exec.Command("sh", "-c", script, "sh", d.mount) //nolint:gosec,noctx // it ends with its input
	in, err := d.holder.StdinPipe()
	if err != nil {
		d.tb.Fatal(err)
	}
	out, err := d.holder.StdoutPipe()
	if err != nil {
		d.tb.Fatal(err)
	}
	d.holder.SysProcAttr = ownGroup()
	if err := d.holder.Start(); err != nil {
		d.tb.Fatal(err)
	}
	d.frozen = in
	d.tb.Cleanup(d.Resume)
	if _, err := io.ReadFull(out, make([]byte, len("stalled"))); err != nil {
		d.tb.Fatalf("the disk was not stalled: %v", err)
	}
}

// Resume lets the disk go on. It may be called twice.
func (d *Disk) Resume() {
	if d.frozen == nil {
		return
	}
	_ = d.frozen.Close()
	if err := d.holder.Wait(); err != nil {
		d.tb.Errorf("let the disk go on: %v", err)
	}
	d.frozen = nil
}
