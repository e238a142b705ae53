package simulation

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/simulation/history"
)

var (
	oneSeed  = flag.Uint64("seed", 0, "run only this seed")
	seeds    = flag.Int("seeds", 0, "run so many seeds; 0 runs as many as -budget holds")
	first    = flag.Uint64("first", 1, "the first seed")
	budget   = flag.Duration("budget", 10*time.Second, "wall time for seeds, where -seeds is 0")
	memory   = flag.String("memory", "/dev/shm", "directory in memory for the files of the nodes, where there is one")
	patience = flag.Duration("patience", 10*time.Minute, "wall time after which a simulation is stuck")
	traces   = flag.String("traces", filepath.Join(os.TempDir(), "streamhouse-simulation"), "directory for the traces of seeds that fail")
)

// kept are seeds that have found something, here or with a bug planted, and what.
var kept = map[uint64]string{
	1:   "a node with a slow disk told a smaller high watermark than before",
	2:   "with the check of producers' sequences taken out: records are stored twice",
	27:  "with a write of unknown outcome sent again: records are stored twice",
	14:  "with raft-wal's fsyncs taken out: offsets are given twice",
	4:   "a node that had just started knew no shards, and took the first one for the coordinator of every group: a partition had two owners",
	3:   "a node that was cut off knows of a deleted topic: so the checker takes a yes for old",
	57:  "a try of a commit that the network had held back undid a later commit, in one run of three",
	126: "a leader whose barrier a hand-over refused did not serve for as long as it led",
}

// mostUndecided is the share of searches for an order that may prove nothing: a busy machine has no time for some.
const mostUndecided = 0.02

// orders counts searches for an order, over all seeds.
type orders struct{ searches, undecided atomic.Int64 }

// add adds those of a history that was checked, and returns them for people.
func (o *orders) add(h *history.History) string {
	all, undecided := h.Searches()
	o.searches.Add(int64(all))
	o.undecided.Add(int64(undecided))
	return fmt.Sprintf("%d of %d searches for an order undecided", undecided, all)
}

// memDir returns a directory in memory where there is one.
func memDir(t *testing.T) string {
	t.Helper()
	base := *memory
	if st, err := os.Stat(base); err != nil || !st.IsDir() {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "streamhouse-simulation-") //nolint:usetesting // in memory
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// TestSimulation runs the kept seeds, and then others.
func TestSimulation(t *testing.T) {
	debug.SetGCPercent(1000) // a run lives for seconds and is thrown away
	list := make(chan uint64)
	var wg sync.WaitGroup
	var ran atomic.Int64
	var searched orders
	begin := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range list {
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { runSeed(t, seed, &searched) })
				ran.Add(1)
			}
		})
	}
	for seed := range chosenSeeds(begin) {
		list <- seed
	}
	close(list)
	wg.Wait()
	took := time.Since(begin)
	searches, undecided := searched.searches.Load(), searched.undecided.Load()
	fmt.Printf("simulation: %d seeds in %s, %.1f s of wall time each, %d of %d searches for an order undecided\n",
		ran.Load(), took.Round(time.Second), took.Seconds()/float64(max(ran.Load(), 1)), undecided, searches)
	require.LessOrEqual(t, float64(undecided), mostUndecided*float64(searches), "searches for an order that proved nothing")
}

// chosenSeeds are those that the flags choose: the kept ones go first.
func chosenSeeds(begin time.Time) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		if *oneSeed != 0 {
			yield(*oneSeed)
			return
		}
		for _, seed := range slices.Sorted(maps.Keys(kept)) {
			if !yield(seed) {
				return
			}
		}
		for seed, n := *first, 0; *seeds == 0 && time.Since(begin) < *budget || n < *seeds; seed, n = seed+1, n+1 {
			if _, was := kept[seed]; !was && !yield(seed) {
				return
			}
		}
	}
}

// shortReplica is how a node's log names a replica that has lost the end of its log.
var shortReplica = regexp.MustCompile(`(?m)^ *[0-9.]+s n\d .*is corrupt at log index \d+: the log ends before it, but was on disk up to index`)

// A loss is seen: with disks that only say that they sync, a power cut of all nodes loses what was acknowledged. There are no
// checkpoints: the library writes those past the disks that lie. Logs have one file each: of several, whole ones would be
// missing, and the node says only that a replica can't be used.
func TestLossIsSeen(t *testing.T) {
	plan := Plan{Seed: 1, Lasts: 10 * time.Second, PowerCutAtEnd: true, Faults: []Fault{{Kind: LyingDisks, At: 9500 * time.Millisecond}}}
	dir := memDir(t)
	var result *Result
	var text bytes.Buffer
	trace := NewTrace(&text)
	synctest.Test(t, func(*testing.T) {
		s := newSim(plan, trace)
		s.flags = map[string]string{"checkpoint-bytes": "1GiB", "log-retain-bytes": "1GiB"}
		result = s.play(dir, s.workAndVerify)
	})
	require.NoError(t, trace.Flush())
	found := result.History.Check()
	require.Truef(t, seesLoss(found, result.Err, text.Bytes()), "nothing is missing, and no replica is short: %v", result.Err)
	t.Logf("violations: %d, the run's error: %v, %s", len(found), result.Err, shortReplica.Find(text.Bytes()))
}

// seesLoss says whether a run has seen that records are gone. A replica that sees that it is short does not vote: the
// cluster does not come back, and a node's log says why.
func seesLoss(found []history.Violation, err error, trace []byte) bool {
	if slices.ContainsFunc(found, func(v history.Violation) bool { return v.Kind == history.Lost }) {
		return true
	}
	return errors.Is(err, errDoesNotComeBack) && shortReplica.Match(trace)
}

// A run that fails for another reason has seen no loss.
func TestOtherFailuresAreNoLoss(t *testing.T) {
	short := []byte("    95.001s n2       ERROR msg=\"can't follow the metadata\" error=\"w/0000.wal is corrupt at log index 7: " +
		"the log ends before it, but was on disk up to index 9\"\n")
	gone := fmt.Errorf("%w within 90s: shard 0 has no leader", errDoesNotComeBack)
	require.True(t, seesLoss(nil, gone, short))
	require.False(t, seesLoss(nil, gone, []byte("    95.001s n2       ERROR msg=\"no leader\"\n")))
	require.False(t, seesLoss(nil, errors.New("create the topic: no leader"), short))
	require.False(t, seesLoss([]history.Violation{{Kind: history.NotLinear}}, nil, short))
	require.True(t, seesLoss([]history.Violation{{Kind: history.NotLinear}, {Kind: history.Lost}}, nil, nil))
}

func TestPlans(t *testing.T) {
	drawn := make(map[Kind]bool)
	for seed := range uint64(1000) {
		p := NewPlan(seed)
		require.Equal(t, p, NewPlan(seed), "a seed fixes the plan")
		require.GreaterOrEqual(t, len(p.Kinds()), leastKinds, "%s", p)
		losses := 0
		for _, f := range p.Faults {
			drawn[f.Kind] = true
			require.NotEqual(t, f.Node, f.Other)
			require.Less(t, f.At, p.Lasts)
			if f.Kind.losesReplica() {
				losses++
			}
		}
		require.LessOrEqual(t, losses, 1, "%s", p)
	}
	require.Len(t, drawn, len(kinds)+1, "all, and damaged objects")
	for seed := range kept {
		require.False(t, NewPlan(seed).DamagesObjects(), "seed %d has found what it has found without them", seed)
	}
}

// runSeed runs a seed, and fails the test with all that is wrong, the trace's file and the command to repeat it.
func runSeed(t *testing.T, seed uint64, searched *orders) {
	t.Helper()
	plan := NewPlan(seed)
	again := fmt.Sprintf("%s\nagain: make simulate SEED=%d", plan, seed)
	result := hold(t, fmt.Sprintf("seed-%d", seed), again, searched, func(dir string, trace *Trace) *Result { return Run(plan, dir, trace) })
	if !t.Failed() {
		t.Logf("%d operations acknowledged in %s, faults: %v", result.Acked, result.Virtual.Round(time.Millisecond), plan.Kinds())
		require.GreaterOrEqual(t, result.Acked, leastAcked)
	}
}

// A simulation that takes too long ends the process, and leaves what a person needs to see why.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSimulation$", "-seed=1", "-patience=1s", "-traces="+dir, "-memory="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "a simulation has not ended after 1s")
	for pattern, text := range map[string]string{"*.trace": "seed 1: ", "*.goroutines": "simulation.Run("} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		require.Len(t, files, 1)
		b, err := os.ReadFile(files[0])
		require.NoError(t, err)
		require.Contains(t, string(b), text)
	}
}

// hold runs what it is given in a bubble, and fails the test with all that the checkers find and the trace's file, which it
// leaves only then. About is told then, too.
func hold(t *testing.T, name, about string, searched *orders, run func(dir string, trace *Trace) *Result) *Result {
	t.Helper()
	require.NoError(t, os.MkdirAll(*traces, 0o755))
	path := filepath.Join(*traces, fmt.Sprintf("%s-%d.trace", name, os.Getpid()))
	file, err := os.Create(path)
	require.NoError(t, err)
	trace := NewTrace(file)
	stop := watch(path, trace)
	dir := memDir(t)
	var result *Result
	synctest.Test(t, func(*testing.T) { result = run(dir, trace) })
	stop()
	found := result.History.Check()
	undecided := searched.add(result.History)
	trace.Event("checker", "%s", undecided)
	t.Log(undecided)
	for _, v := range found {
		trace.Event("checker", "%s", v)
	}
	require.NoError(t, errors.Join(trace.Flush(), file.Close()))
	if len(found) == 0 && result.Err == nil {
		require.NoError(t, os.Remove(path))
		return result
	}
	for _, v := range found {
		t.Error(v)
	}
	if result.Err != nil {
		t.Error(result.Err)
	}
	t.Errorf("%s\ntrace: %s", about, path)
	return result
}

// watch ends the process where a bubble takes too long: one whose clock stands still never ends. Before that it leaves the
// trace so far, and all goroutines beside it. The function that it returns ends the watch.
func watch(path string, trace *Trace) (stop func()) {
	timer := time.AfterFunc(*patience, func() {
		goroutines := path + ".goroutines"
		var stacks bytes.Buffer
		err := errors.Join(pprof.Lookup("goroutine").WriteTo(&stacks, 2), os.WriteFile(goroutines, stacks.Bytes(), 0o644), trace.Flush())
		panic(fmt.Sprintf("a simulation has not ended after %s: trace: %s, goroutines: %s, %v", *patience, path, goroutines, err))
	})
	return func() { timer.Stop() }
}
