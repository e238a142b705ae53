package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// run makes the checks that args choose and prints a line for each. The error says how many mutants survived, or what
// kept a check from being made.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	only := flags.String("run", "", "make only the checks whose line in the index this regular expression matches")
	jobs := flags.Int("jobs", runtime.GOMAXPROCS(0), "how many checks to make at once")
	timeout := flags.Duration("timeout", 3*time.Minute, "how long one test may take")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	root, err := findRoot(".")
	if err != nil {
		return err
	}
	checks, err := readIndex(root)
	if err != nil {
		return err
	}
	checks = slices.DeleteFunc(checks, func(c check) bool { return !match.MatchString(c.mutant + " " + c.kinds + " " + c.test.String()) })
	if len(checks) == 0 {
		return errors.New("no check matches -run")
	}
	tmp, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	s := &session{runner: &runner{root: root, tmp: tmp, timeout: *timeout}, jobs: max(1, *jobs), out: stdout}
	return s.all(ctx, checks)
}

// session makes checks and prints what came out.
type session struct {
	runner *runner
	jobs   int

	mu  sync.Mutex
	out io.Writer // guarded by mu
}

// job is a test binary and what is run of it.
type job struct {
	mutant string // "" for the tree as it is
	dir    string // of the package
	tests  []test
}

// jobsOf groups checks: each mutant's package is built once, and so is the package without it.
func jobsOf(checks []check) (clean, mutants []job) {
	add := func(jobs []job, mutant string, t test) []job {
		i := slices.IndexFunc(jobs, func(j job) bool { return j.mutant == mutant && j.dir == t.dir })
		if i < 0 {
			i, jobs = len(jobs), append(jobs, job{mutant: mutant, dir: t.dir})
		}
		if !slices.Contains(jobs[i].tests, t) {
			jobs[i].tests = append(jobs[i].tests, t)
		}
		return jobs
	}
	for _, c := range checks {
		clean, mutants = add(clean, "", c.test), add(mutants, c.mutant, c.test)
	}
	return clean, mutants
}

// all first runs every test on the tree as it is, then once for each mutant.
func (s *session) all(ctx context.Context, checks []check) error {
	began := time.Now()
	clean, mutants := jobsOf(checks)
	if err := s.each(ctx, clean); err != nil {
		return err
	}
	err := s.each(ctx, mutants)
	s.printf("%d checks in %s\n", len(checks), time.Since(began).Round(time.Second))
	return err
}

// each does jobs, some at once, and returns their errors in order.
func (s *session) each(ctx context.Context, jobs []job) error {
	errs := make([]error, len(jobs))
	slots := make(chan struct{}, s.jobs)
	var wg sync.WaitGroup
	for i, j := range jobs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = s.do(ctx, j)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// do builds and runs a job's tests: with a mutant all must fail, without one all must pass.
func (s *session) do(ctx context.Context, j job) (err error) {
	dir, err := os.MkdirTemp(s.runner.tmp, "job-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	over := ""
	if j.mutant != "" {
		if over, err = overlay(ctx, s.runner.root, j.mutant, dir); err != nil {
			return err
		}
	}
	binary := filepath.Join(dir, "job.test")
	if err := s.runner.build(ctx, j.dir, over, binary); err != nil {
		return fmt.Errorf("%s: %w", cmp.Or(j.mutant, "without a mutant"), err)
	}
	var errs []error
	for _, t := range j.tests {
		o, err := s.runner.run(ctx, t, over, binary)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", cmp.Or(j.mutant, "without a mutant"), err))
			continue
		}
		verdict, err := judge(j, t, o)
		s.printf("%-34s %-10s %-60s %6.1fs\n", cmp.Or(j.mutant, "(none)"), verdict, t, o.took.Seconds())
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// judge says in a word how a test ended, and whether it should have.
func judge(j job, t test, o outcome) (verdict string, err error) {
	switch {
	case j.mutant == "" && o.failed:
		return "FAILS", fmt.Errorf("%s fails without any mutant:\n%s", t, lastLines(o.output, 30))
	case j.mutant == "":
		return "passes", nil
	case o.failed:
		return "caught by", nil
	default:
		return "SURVIVES", fmt.Errorf("%s survives: %s passes with it", j.mutant, t)
	}
}

func (s *session) printf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, format, args...)
}
