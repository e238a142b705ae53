package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// Hosts gives each node of a cluster a host of its own: a network namespace with an address that all others reach through
// a bridge. Packets between two hosts, of Raft, calls and gossip alike, can be dropped in both directions, in one, or by
// chance. This process reaches them all, always. It needs root, Linux, and ip, nsenter and iptables. Its methods may be
// called by one goroutine at a time.
type Hosts struct {
	tb     testing.TB
	name   string // of the bridge; names of the namespaces begin with it
	subnet [3]int // the first three bytes of all addresses
	base   int    // the fourth byte of this process's address
	hosts  map[string]string
	dirty  bool
}

const (
	hostsPrefix = "shtest" // of all names
	// clustersPerSubnet share the last byte of addresses.
	clustersPerSubnet = 16
	hostsPerCluster   = 16
)

var hostClusters atomic.Int64

func newHosts(tb testing.TB) *Hosts {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("hosts of their own for nodes need root: run the integration tests as root")
	}
	sweepHosts()
	number := int(hostClusters.Add(1) - 1)
	pid := os.Getpid()
	h := &Hosts{
		tb: tb, name: fmt.Sprintf("%s%x-%x", hostsPrefix, pid, number), // at most 15 characters
		hosts:  make(map[string]string),
		subnet: [3]int{10, 100 + (pid/256+number/clustersPerSubnet)%100, pid % 256},
		base:   number % clustersPerSubnet * hostsPerCluster,
	}
	h.ip("link", "add", h.name, "type", "bridge")
	tb.Cleanup(func() {
		for _, ns := range h.hosts {
			if err := command("ip", "netns", "del", ns); err != nil {
				tb.Error(err)
			}
		}
		if err := command("ip", "link", "del", h.name); err != nil {
			tb.Error(err)
		}
	})
	h.ip("addr", "add", h.address(1)+"/28", "dev", h.name)
	h.ip("link", "set", h.name, "up")
	return h
}

// sweepHosts removes what test processes that were killed have left behind.
func sweepHosts() {
	spaces, _ := filepath.Glob("/run/netns/" + hostsPrefix + "*")
	bridges, _ := filepath.Glob("/sys/class/net/" + hostsPrefix + "*")
	for _, path := range append(spaces, bridges...) {
		name := filepath.Base(path)
		hex, _, _ := strings.Cut(strings.TrimPrefix(name, hostsPrefix), "-")
		pid, err := strconv.ParseInt(hex, 16, 32)
		if err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		// Another test process may be doing the same.
		if strings.HasPrefix(path, "/run/") {
			_ = command("ip", "netns", "del", name)
		} else {
			_ = command("ip", "link", "del", name)
		}
	}
}

func (h *Hosts) ip(args ...string) {
	h.tb.Helper()
	if err := command("ip", args...); err != nil {
		h.tb.Fatal(err)
	}
}

func (h *Hosts) address(number int) string {
	return fmt.Sprintf("%d.%d.%d.%d", h.subnet[0], h.subnet[1], h.subnet[2], h.base+number)
}

// Gateway is the address of this process on the bridge.
func (h *Hosts) Gateway() string { return h.address(1) }

// add makes a host for a node and returns its address.
func (h *Hosts) add(node string) string {
	h.tb.Helper()
	number := len(h.hosts) + 2
	if number > hostsPerCluster-2 {
		h.tb.Fatalf("more than %d hosts in a cluster", hostsPerCluster-3)
	}
	ns := fmt.Sprintf("%s-%d", h.name, number)
	outer := fmt.Sprintf("v%d%s", number, strings.TrimPrefix(h.name, hostsPrefix))
	h.ip("netns", "add", ns)
	h.hosts[node] = ns
	h.ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", ns)
	h.ip("link", "set", outer, "master", h.name, "up")
	h.ip("-n", ns, "addr", "add", h.address(number)+"/28", "dev", "eth0")
	h.ip("-n", ns, "link", "set", "eth0", "up")
	h.ip("-n", ns, "link", "set", "lo", "up")
	return h.address(number)
}

// within returns the command line that runs a program on a node's host. The process is the program itself, not a parent
// of it.
func (h *Hosts) within(node, path string, args []string) (string, []string) {
	return "nsenter", append([]string{"--net=/run/netns/" + h.hosts[node], path}, args...)
}

// rule adds a rule to what a node's host does with packets that come in.
func (h *Hosts) rule(to *Node, args ...string) error {
	h.dirty = true
	return command("nsenter", append([]string{"--net=/run/netns/" + h.hosts[to.ID], "iptables", "-w", "-A", "INPUT"}, args...)...)
}

// Cut drops what one node sends to another, from now on; the other direction stays as it is.
func (h *Hosts) Cut(from, to *Node) error { return h.rule(to, "-s", from.host(), "-j", "DROP") }

// Isolate drops all between a node and these others.
func (h *Hosts) Isolate(n *Node, others ...*Node) error {
	var errs []error
	for _, o := range others {
		errs = append(errs, h.Cut(n, o), h.Cut(o, n))
	}
	return errors.Join(errs...)
}

// Lose drops this part of the packets, of 1, that come to a node from other nodes. The kernel sends them again, so that
// the network is slow rather than broken.
func (h *Hosts) Lose(to *Node, part float64) error {
	return h.rule(to, "!", "-s", h.Gateway(), "-m", "statistic", "--mode", "random", "--probability", fmt.Sprint(part), "-j", "DROP")
}

// Heal lets all packets pass.
func (h *Hosts) Heal() error {
	if !h.dirty {
		return nil
	}
	var errs []error
	for _, ns := range h.hosts {
		errs = append(errs, command("nsenter", "--net=/run/netns/"+ns, "iptables", "-w", "-F", "INPUT"))
	}
	h.dirty = false
	return errors.Join(errs...)
}
