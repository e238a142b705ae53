// Package cputime measures benchmarks by the CPU time that they take: on a machine that others use too, time that passes says
// little.
package cputime

import (
	"syscall"
	"testing"
	"time"
)

// used is the CPU time that this process has used. Only the sum of what it used inside and outside the kernel is exact: the
// system samples which of them it is.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it can't fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Bench runs f, which handles so many batches, as a benchmark does, and reports what each batch takes as cpu-ns/batch.
func Bench(b *testing.B, batches int, f func()) {
	b.Helper()
	b.ReportAllocs()
	began := used()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(used()-began)/float64(b.N*batches), "cpu-ns/batch")
}
