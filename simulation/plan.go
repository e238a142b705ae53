package simulation

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is a kind of fault.
type Kind string

// Kinds of fault.
const (
	Partition    Kind = "partition"     // one node is cut off from the others
	OneWay       Kind = "one-way"       // one node is heard by nobody, or hears nobody
	BrokenLink   Kind = "broken-link"   // two nodes don't reach each other
	SlowNetwork  Kind = "slow-network"  // long and uneven delays, lost and repeated datagrams
	KillNode     Kind = "kill"          // kill -9
	PowerCut     Kind = "power-cut"     // of one node; unsynced writes are lost or torn
	PowerCutAll  Kind = "power-cut-all" // of all nodes at once
	Restart      Kind = "restart"       // SIGTERM
	WipeNode     Kind = "wipe"          // kill -9, and the disk is empty
	FlipBit      Kind = "flip-bit"      // kill -9, and a bit of a log is flipped
	DiskFails    Kind = "disk-fails"    // EIO or ENOSPC, then a power cut
	SlowDisk     Kind = "slow-disk"     // fsyncs take long
	StoreFails   Kind = "store-fails"   // 503, for some calls or all
	StoreForgets Kind = "store-forgets" // calls are done and answered 503
	StoreHangs   Kind = "store-hangs"   // calls end after their caller has given up
	MoveLeader   Kind = "move-leader"   // a leadership is handed over
)

// LyingDisks makes the syncs of all disks do nothing from then on. No cluster survives that and a power cut of all nodes: no
// seed draws it, it is there to show that a loss is seen.
const LyingDisks Kind = "lying-disks"

// DamageObject flips a bit of an object with records, or removes it. It is drawn for some of the plans in which no replica is
// lost: so the local logs have what the object had.
const DamageObject Kind = "damage-object"

// kinds are all others, in the order in which seeds draw them. Append only: else seeds change what they mean.
var kinds = []Kind{
	Partition, OneWay, BrokenLink, SlowNetwork, KillNode, PowerCut, PowerCutAll, Restart, WipeNode, FlipBit, DiskFails, SlowDisk,
	StoreFails, StoreForgets, StoreHangs, MoveLeader,
}

// losesReplica says that the fault costs a node what it had acknowledged: a cluster of three survives one at a time.
func (k Kind) losesReplica() bool { return k == WipeNode || k == FlipBit }

// Fault is one fault of a plan.
type Fault struct {
	Kind Kind
	// At is when it begins, since the workload began; For is how long it lasts.
	At, For time.Duration
	// Node is the first that it hits, Other another one: from 0.
	Node, Other int
	// Draw is for the choices within the fault.
	Draw uint64
}

// String returns a line for people.
func (f Fault) String() string {
	return fmt.Sprintf("%6.2fs for %5.2fs: %s of n%d (n%d)", f.At.Seconds(), f.For.Seconds(), f.Kind, f.Node+1, f.Other+1)
}

// Plan is all that a seed fixes.
type Plan struct {
	Seed   uint64
	Faults []Fault
	// Lasts is how long the workload runs with faults.
	Lasts time.Duration
	// PowerCutAtEnd takes all nodes' power when the producers have ended, before everything is read back.
	PowerCutAtEnd bool
}

const (
	nodes       = 3
	leastLasts  = 30 * time.Second
	leastKinds  = 3
	leastAcked  = 500
	quietBefore = 500 * time.Millisecond
)

// NewPlan makes the plan of a seed.
func NewPlan(seed uint64) Plan {
	r := rand.New(rand.NewPCG(seed, 0))
	p := Plan{Seed: seed, Lasts: leastLasts, PowerCutAtEnd: r.IntN(2) == 0}
	chosen := slices.Clone(kinds)
	r.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	chosen = chosen[:leastKinds+r.IntN(3)]
	victim := -1 // of the one fault that costs a replica
	for at := quietBefore; at < p.Lasts-2*time.Second; {
		f := Fault{
			Kind: chosen[r.IntN(len(chosen))], At: at, For: 200*time.Millisecond + time.Duration(r.Int64N(int64(5*time.Second))),
			Node: r.IntN(nodes), Draw: r.Uint64(),
		}
		if n := len(p.Faults); n < len(chosen) {
			f.Kind = chosen[n] // each at least once
		}
		f.Other = (f.Node + 1 + r.IntN(nodes-1)) % nodes
		if f.Kind.losesReplica() {
			if victim >= 0 {
				f.Kind = Restart
			}
			victim = f.Node
		}
		p.Faults = append(p.Faults, f)
		// Some come while the last one lasts, some after a quiet time.
		at += time.Duration(r.Int64N(int64(f.For + 3*time.Second)))
	}
	if victim < 0 {
		p.damageObjects()
	}
	return p
}

// damageObjects adds damaged objects to one such plan of four. Their choices are no part of the others': older seeds mean what they did.
func (p *Plan) damageObjects() {
	r := rand.New(rand.NewPCG(p.Seed, 6))
	if r.IntN(4) > 0 {
		return
	}
	for range 1 + r.IntN(4) {
		at := 4*time.Second + time.Duration(r.Int64N(int64(p.Lasts-8*time.Second)))
		p.Faults = append(p.Faults, Fault{Kind: DamageObject, At: at, Other: 1, Draw: r.Uint64()})
	}
	slices.SortStableFunc(p.Faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
}

// DamagesObjects reports whether the plan has damaged objects in it.
func (p Plan) DamagesObjects() bool { return slices.Contains(p.Kinds(), DamageObject) }

// Kinds are the kinds of fault in the plan.
func (p Plan) Kinds() []Kind {
	var list []Kind
	for _, f := range p.Faults {
		if !slices.Contains(list, f.Kind) {
			list = append(list, f.Kind)
		}
	}
	return list
}

// String returns the plan for people.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %s with faults, power cut at the end: %t", p.Seed, p.Lasts, p.PowerCutAtEnd)
	for _, f := range p.Faults {
		b.WriteString("\n\t" + f.String())
	}
	return b.String()
}
