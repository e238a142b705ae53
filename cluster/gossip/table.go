package gossip

import (
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/memberlist"
)

// entry is a member with the address that memberlist hears it at.
type entry struct {
	Member
	addr string
}

// table holds the members that are alive. It is written by memberlist's
// callbacks and read by everybody; it never calls memberlist.
type table struct {
	mu       sync.Mutex
	self     Member           // guarded by mu
	meta     []byte           // guarded by mu; encoded self
	members  map[string]entry // guarded by mu; by memberlist name, without self
	suspects map[string]entry // guarded by mu; other nodes with this node's id
	changed  chan struct{}    // guarded by mu; closed at the next change
}

func newTable(self Member) (*table, error) {
	meta, err := encodeMeta(&self)
	if err != nil {
		return nil, err
	}
	return &table{
		self:     self,
		meta:     meta,
		members:  make(map[string]entry),
		suspects: make(map[string]entry),
		changed:  make(chan struct{}),
	}, nil
}

// updateSelf changes what this node tells about itself. It reports false when nothing changed.
func (t *table) updateSelf(change func(*Member)) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	self := t.self
	change(&self)
	if self == t.self {
		return false, nil
	}
	meta, err := encodeMeta(&self)
	if err != nil {
		return false, err
	}
	t.self, t.meta = self, meta
	t.notifyLocked()
	return true, nil
}

func (t *table) selfMember() Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.self
}

// selfName is the name in memberlist of this node, which never changes.
func (t *table) selfName() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.self.name()
}

func (t *table) selfMeta() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.meta
}

// check returns the member that n describes, or why it does not belong here.
func (t *table) check(n *memberlist.Node) (Member, error) {
	m, err := decodeMember(n.Name, n.Meta)
	if err != nil {
		return Member{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return m, checkCluster(&t.self, &m)
}

func (t *table) put(n *memberlist.Node) {
	m, err := t.check(n)
	if err != nil {
		return // NotifyAlive has refused it already.
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.Name == t.self.name() {
		return
	}
	e := entry{Member: m, addr: nodeAddr(n)}
	t.members[n.Name] = e
	if m.NodeID == t.self.NodeID {
		t.suspects[n.Name] = e
	}
	t.notifyLocked()
}

func (t *table) remove(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.members, name)
	delete(t.suspects, name)
	t.notifyLocked()
}

// conflict notes a node of this node's very name at another address.
func (t *table) conflict(existing, other *memberlist.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if existing.Name != t.self.name() {
		return
	}
	m, err := decodeMember(other.Name, other.Meta)
	if err != nil {
		return
	}
	t.suspects[nodeAddr(other)] = entry{Member: m, addr: nodeAddr(other)}
	t.notifyLocked()
}

// takeSuspects returns other nodes with this node's id that were not looked at yet.
func (t *table) takeSuspects() []entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s []entry
	for _, e := range t.suspects {
		s = append(s, e)
	}
	clear(t.suspects)
	return s
}

func (t *table) notifyLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *table) watch() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// entries returns all live members of this cluster but self.
func (t *table) entries() []entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]entry, 0, len(t.members))
	for _, e := range t.members {
		if checkCluster(&t.self, &e.Member) == nil {
			out = append(out, e)
		}
	}
	return out
}

// alive returns all live members of this cluster, self too, in order of id and incarnation.
func (t *table) alive() []Member {
	entries := t.entries()
	out := make([]Member, 0, len(entries)+1)
	out = append(out, t.selfMember())
	for i := range entries {
		out = append(out, entries[i].Member)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.name(), b.name()) })
	return out
}
