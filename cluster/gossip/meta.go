package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/hashicorp/memberlist"
)

// What a node tells about itself in memberlist's metadata (at most 512 bytes):
//
//	+---------+-------+------------------+------------+------+------+
//	| version | flags | bootstrap expect | cluster id | zone | host |
//	| 1 byte  | 1     | uvarint          | string     | str. | str. |
//	+---------+-------+------------------+------------+------+------+
//	| raft addr | grpc addr | http addr | gossip addr |
//	+-----------+-----------+-----------+-------------+
//
// A string is a uvarint length and its bytes. An address is a string; when it
// begins with ":" the host above belongs before it. Bytes behind the last
// address belong to later versions and are ignored. The node's id and
// incarnation are its name in memberlist: "<node id>/<incarnation>".
const (
	metaVersion = 1

	flagFresh   = 1 << 0
	flagSettled = 1 << 1
	flagLeaving = 1 << 2

	maxNodeIDBytes     = 64
	incarnationBytes   = 26
	maxMetaStringBytes = 300
	maxBootstrapExpect = 1 << 16
)

var errBadMeta = errors.New("bad gossip metadata")

// Member is a node as gossip sees it.
type Member struct {
	NodeID string
	// Incarnation was minted when the node's data directory was created.
	Incarnation string
	// ClusterID is empty as long as the node belongs to no cluster.
	ClusterID string
	Zone      string
	// Addresses are host:port, and hosts may be names.
	RaftAddr, GRPCAddr, HTTPAddr, GossipAddr string
	// Fresh is set while the node belongs to no cluster.
	Fresh bool
	// Settled is set once the node is registered with its cluster in this run.
	Settled bool
	// Leaving is set while the node stops: it wants no more leaderships.
	Leaving bool
	// BootstrapExpect is the number of nodes that it waits for to begin a cluster.
	BootstrapExpect int
}

func (m *Member) name() string { return m.NodeID + "/" + m.Incarnation }

func validNodeID(s string) bool {
	if s == "" || len(s) > maxNodeIDBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isAlnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func validIncarnation(s string) bool {
	if len(s) != incarnationBytes {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// encodeMeta returns what memberlist carries for m, ErrMetaTooLong when it does not fit.
func encodeMeta(m *Member) ([]byte, error) {
	host, _, err := net.SplitHostPort(m.RaftAddr)
	if err != nil {
		host = ""
	}
	var flags byte
	if m.Fresh {
		flags |= flagFresh
	}
	if m.Settled {
		flags |= flagSettled
	}
	if m.Leaving {
		flags |= flagLeaving
	}
	b := []byte{metaVersion, flags}
	b = binary.AppendUvarint(b, uint64(max(m.BootstrapExpect, 0)))
	b = appendString(b, m.ClusterID)
	b = appendString(b, m.Zone)
	b = appendString(b, host)
	for _, a := range []string{m.RaftAddr, m.GRPCAddr, m.HTTPAddr, m.GossipAddr} {
		h, port, err := net.SplitHostPort(a)
		if err == nil && h == host && host != "" {
			a = ":" + port
		}
		b = appendString(b, a)
	}
	if len(b) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMetaTooLong, len(b), memberlist.MetaMaxSize)
	}
	return b, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// decodeMember reads a member from its memberlist name and metadata.
func decodeMember(name string, meta []byte) (Member, error) {
	var m Member
	var ok bool
	m.NodeID, m.Incarnation, ok = strings.Cut(name, "/")
	if !ok || !validNodeID(m.NodeID) || !validIncarnation(m.Incarnation) {
		return Member{}, fmt.Errorf("%w: name %q", errBadMeta, name)
	}
	if len(meta) < 2 || len(meta) > memberlist.MetaMaxSize {
		return Member{}, fmt.Errorf("%w: %d bytes", errBadMeta, len(meta))
	}
	if meta[0] < metaVersion {
		return Member{}, fmt.Errorf("%w: version %d", errBadMeta, meta[0])
	}
	m.Fresh = meta[1]&flagFresh != 0
	m.Settled = meta[1]&flagSettled != 0
	m.Leaving = meta[1]&flagLeaving != 0
	d := metaDecoder{b: meta[2:]}
	expect := d.uvarint()
	m.ClusterID = d.string()
	m.Zone = d.string()
	host := d.string()
	for _, a := range []*string{&m.RaftAddr, &m.GRPCAddr, &m.HTTPAddr, &m.GossipAddr} {
		*a = d.string()
		if _, port, err := net.SplitHostPort(*a); err == nil && host != "" && (*a)[0] == ':' {
			*a = net.JoinHostPort(host, port)
		}
	}
	if d.bad || expect > maxBootstrapExpect {
		return Member{}, fmt.Errorf("%w: cut short or out of bounds", errBadMeta)
	}
	m.BootstrapExpect = int(expect)
	return m, nil
}

type metaDecoder struct {
	b   []byte
	bad bool
}

func (d *metaDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *metaDecoder) string() string {
	n := d.uvarint()
	if n > maxMetaStringBytes || n > uint64(len(d.b)) {
		d.bad = true
		d.b = nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}
