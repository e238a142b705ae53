package harness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// Harm is something bad that is done to a cluster. Start does it; Heal puts it right again, as far as somebody can, and
// may be called when Start has failed half-way. Both are called once, by the test's goroutine, and say in their errors what
// they could not do. What a harm is about must not be harmed by another one at the same time.
type Harm interface {
	fmt.Stringer
	Start() error
	Heal() error
}

var (
	_ Harm = (*Kill)(nil)
	_ Harm = (*Pause)(nil)
	_ Harm = (*Restart)(nil)
	_ Harm = (*PowerCut)(nil)
	_ Harm = (*FullDisk)(nil)
	_ Harm = (*Partition)(nil)
	_ Harm = (*OneWay)(nil)
	_ Harm = (*PacketLoss)(nil)
	_ Harm = (*SlowLinks)(nil)
	_ Harm = (*BadS3)(nil)
	_ Harm = (*CrashInRecovery)(nil)
	_ Harm = (*Drain)(nil)
)

func names(nodes []*Node) string {
	ids := make([]string, 0, len(nodes))
	for _, n := range nodes {
		ids = append(ids, n.ID)
	}
	return strings.Join(ids, " ")
}

// signalAll sends a signal to the nodes' processes.
func signalAll(nodes []*Node, s syscall.Signal) error {
	var errs []error
	for _, n := range nodes {
		errs = append(errs, n.Process().Signal(s))
	}
	return errors.Join(errs...)
}

func startAll(nodes []*Node) {
	for _, n := range nodes {
		if !n.Running() {
			n.Start()
		}
	}
}

// Kill ends nodes as kill -9 does, all at the same moment.
type Kill struct{ Nodes []*Node }

func (h *Kill) String() string { return "kill " + names(h.Nodes) }

// Start implements Harm.
func (h *Kill) Start() error {
	err := signalAll(h.Nodes, syscall.SIGSTOP) // so that none sees another one's end
	for _, n := range h.Nodes {
		n.Kill()
	}
	return err
}

// Heal implements Harm.
func (h *Kill) Heal() error {
	startAll(h.Nodes)
	return nil
}

// Pause stops a node's process in mid-step.
type Pause struct{ Node *Node }

func (h *Pause) String() string { return "pause " + h.Node.ID }

// Start implements Harm.
func (h *Pause) Start() error { return h.Node.Process().Pause() }

// Heal implements Harm.
func (h *Pause) Heal() error { return h.Node.Process().Resume() }

// Restart stops a node with SIGTERM.
type Restart struct{ Node *Node }

func (h *Restart) String() string { return "restart " + h.Node.ID }

// Start implements Harm.
func (h *Restart) Start() error {
	ctx, cancel := context.WithTimeout(h.Node.t.Context(), stopWithin)
	defer cancel()
	if err := Poll(ctx, h.Node.CheckLive); err != nil { // before that nobody handles the signal
		return err
	}
	return h.Node.Process().Terminate(stopWithin)
}

// Heal implements Harm.
func (h *Restart) Heal() error {
	startAll([]*Node{h.Node})
	return nil
}

// PowerCut cuts the power of nodes whose data is on these disks, all at the same moment: what was not synced is gone.
type PowerCut struct {
	Nodes []*Node
	Disks []*PowerDisk
}

func (h *PowerCut) String() string { return "cut the power of " + names(h.Nodes) }

// Start implements Harm.
func (h *PowerCut) Start() error {
	errs := []error{signalAll(h.Nodes, syscall.SIGSTOP)} // so that none tells anybody that its disk has gone
	for _, d := range h.Disks {
		errs = append(errs, d.Cut())
	}
	for _, n := range h.Nodes {
		n.Kill()
	}
	return errors.Join(errs...)
}

// Heal implements Harm.
func (h *PowerCut) Heal() error {
	for _, d := range h.Disks {
		if err := d.Restore(); err != nil {
			return err
		}
	}
	startAll(h.Nodes)
	return nil
}

// FullDisk leaves a node's disk so many bytes. A node that ends because of it is started again with the healing.
type FullDisk struct {
	Node  *Node
	Disk  *PowerDisk
	Leave int64
}

func (h *FullDisk) String() string { return "fill the disk of " + h.Node.ID }

// Start implements Harm.
func (h *FullDisk) Start() error { return h.Disk.Fill(h.Leave) }

// Heal implements Harm.
func (h *FullDisk) Heal() error {
	err := h.Disk.Free()
	startAll([]*Node{h.Node})
	return err
}

// Partition cuts a node off from these others, in both directions.
type Partition struct {
	Hosts *Hosts
	Node  *Node
	From  []*Node
}

func (h *Partition) String() string {
	return fmt.Sprintf("cut %s off from %s", h.Node.ID, names(h.From))
}

// Start implements Harm.
func (h *Partition) Start() error { return h.Hosts.Isolate(h.Node, h.From...) }

// Heal implements Harm. It heals all of the network.
func (h *Partition) Heal() error { return h.Hosts.Heal() }

// OneWay drops what a node sends to these others, and nothing that they send.
type OneWay struct {
	Hosts *Hosts
	Node  *Node
	To    []*Node
}

func (h *OneWay) String() string {
	return fmt.Sprintf("drop what %s sends to %s", h.Node.ID, names(h.To))
}

// Start implements Harm.
func (h *OneWay) Start() error {
	var errs []error
	for _, to := range h.To {
		errs = append(errs, h.Hosts.Cut(h.Node, to))
	}
	return errors.Join(errs...)
}

// Heal implements Harm. It heals all of the network.
func (h *OneWay) Heal() error { return h.Hosts.Heal() }

// PacketLoss loses a part of the packets, of 1, that nodes send each other.
type PacketLoss struct {
	Hosts *Hosts
	Nodes []*Node
	Part  float64
}

func (h *PacketLoss) String() string {
	return fmt.Sprintf("lose %.0f %% of the packets to %s", 100*h.Part, names(h.Nodes))
}

// Start implements Harm.
func (h *PacketLoss) Start() error {
	var errs []error
	for _, n := range h.Nodes {
		errs = append(errs, h.Hosts.Lose(n, h.Part))
	}
	return errors.Join(errs...)
}

// Heal implements Harm. It heals all of the network.
func (h *PacketLoss) Heal() error { return h.Hosts.Heal() }

// SlowLinks delays all that nodes send to a node, and its answers. It is for clusters with a Network.
type SlowLinks struct {
	Network *Network
	Node    *Node
	Delay   time.Duration
}

func (h *SlowLinks) String() string {
	return fmt.Sprintf("delay what %s gets by %v", h.Node.ID, h.Delay)
}

// Start implements Harm.
func (h *SlowLinks) Start() error {
	h.Network.Slow(h.Node, h.Delay)
	return nil
}

// Heal implements Harm.
func (h *SlowLinks) Heal() error {
	h.Network.Slow(h.Node, 0)
	return nil
}

// BadS3 makes S3 do what a fault says.
type BadS3 struct {
	Proxy *Proxy
	Fault Fault

	remove func()
}

func (h *BadS3) String() string { return fmt.Sprintf("S3: %+v", h.Fault) }

// Start implements Harm.
func (h *BadS3) Start() error {
	h.remove = h.Proxy.Inject(h.Fault)
	return nil
}

// Heal implements Harm.
func (h *BadS3) Heal() error {
	h.remove()
	return nil
}

// CrashInRecovery kills a node, and kills it again as often as there are times: each so long after its start, in the midst
// of what it does to recover.
type CrashInRecovery struct {
	Node  *Node
	Times []time.Duration
}

func (h *CrashInRecovery) String() string {
	return fmt.Sprintf("kill %s, and again after %v", h.Node.ID, h.Times)
}

// Start implements Harm.
func (h *CrashInRecovery) Start() error {
	h.Node.Kill()
	for _, after := range h.Times {
		h.Node.Start()
		timer := time.NewTimer(after)
		select {
		case <-timer.C:
		case <-h.Node.Process().Done():
			timer.Stop()
			return fmt.Errorf("%s ended by itself when it started: %s", h.Node.ID, h.Node.Process().LogTail())
		}
		h.Node.Kill()
	}
	return nil
}

// Heal implements Harm.
func (h *CrashInRecovery) Heal() error {
	startAll([]*Node{h.Node})
	return nil
}

// Drain moves all replicas of a node to others. It needs a node to spare, and may take longer than the harm lasts.
type Drain struct {
	Cluster *Cluster
	Node    *Node
}

func (h *Drain) String() string { return "drain " + h.Node.ID }

func (h *Drain) ask(within time.Duration, f func(ctx context.Context, c *Client) error) error {
	ctx, cancel := context.WithTimeout(h.Node.t.Context(), within)
	defer cancel()
	return Retry(ctx, h.Cluster.Clients(), f)
}

// Start implements Harm. That it can't be done just now is no error: other nodes may be away. Whether it was done may be
// unknown then, and Heal takes it back in any case.
func (h *Drain) Start() error {
	err := h.ask(5*time.Second, func(ctx context.Context, c *Client) error {
		_, err := c.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: h.Node.ID})
		return err
	})
	if err != nil && !MayRetry(err) && Reason(err) != "CANNOT_PLACE_REPLICAS" {
		return fmt.Errorf("%s: %s", h, Describe(err))
	}
	return nil
}

// Heal implements Harm.
func (h *Drain) Heal() error {
	err := h.ask(time.Minute, func(ctx context.Context, c *Client) error {
		_, err := c.UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{NodeId: h.Node.ID})
		return err
	})
	if err != nil {
		return fmt.Errorf("take back %q: %s", h, Describe(err))
	}
	return nil
}
