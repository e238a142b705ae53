package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A preface (docs/format/raft-preface.md), big endian:
//
//	+-----------+-----------+--------+---------------+-----------------+------------------+
//	| "SHN" (3) | version 1 | kind 1 | group int64 8 | cluster uint8+n | replica uint8+n  |
//	+-----------+-----------+--------+---------------+-----------------+------------------+
//
// The receiver answers one byte: 0 is accepted, else a refusal, and then closes.
const (
	prefaceMagic   = "SHN"
	prefaceVersion = 1
	prefaceFixed   = 3 + 1 + 1 + 8
)

type kind byte

const (
	kindRaft kind = 1
	kindRPC  kind = 2
)

// refusal is the receiver's answer.
type refusal byte

const (
	accepted refusal = iota
	refusedVersion
	refusedCluster
	refusedGroup
	refusedReplica
)

// Refusals, as the dialer sees them.
var (
	// ErrWrongCluster says that the other node belongs to another cluster.
	ErrWrongCluster = errors.New("the other node belongs to another cluster")
	// ErrNoReplica says that the replica that was meant does not run there.
	ErrNoReplica = errors.New("the replica does not run on the other node")
	// ErrVersion says that the other node does not speak this version.
	ErrVersion = errors.New("the other node speaks another version of the node protocol")
	errPreface = errors.New("not a node's connection")
)

func (r refusal) err() error {
	switch r {
	case accepted:
		return nil
	case refusedCluster:
		return ErrWrongCluster
	case refusedGroup, refusedReplica:
		return ErrNoReplica
	case refusedVersion:
		return ErrVersion
	default:
		return fmt.Errorf("%w: answer %d", errPreface, byte(r))
	}
}

// preface says what a connection is for.
type preface struct {
	kind      kind
	group     Group
	clusterID string
	replicaID string
}

func (p preface) encode() ([]byte, error) {
	if len(p.clusterID) > 255 || len(p.replicaID) > 255 {
		return nil, fmt.Errorf("cluster id %q or replica id %q is longer than 255 bytes", p.clusterID, p.replicaID)
	}
	b := append([]byte(prefaceMagic), prefaceVersion, byte(p.kind))
	b = binary.BigEndian.AppendUint64(b, uint64(p.group.number))
	b = append(append(b, byte(len(p.clusterID))), p.clusterID...)
	return append(append(b, byte(len(p.replicaID))), p.replicaID...), nil
}

// readPreface reads at most some 500 bytes and not one beyond the preface.
func readPreface(r io.Reader) (preface, error) {
	var fixed [prefaceFixed]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return preface{}, err
	}
	if string(fixed[:3]) != prefaceMagic {
		return preface{}, errPreface
	}
	if fixed[3] != prefaceVersion {
		return preface{}, ErrVersion
	}
	p := preface{kind: kind(fixed[4]), group: Group{int64(binary.BigEndian.Uint64(fixed[5:]))}}
	if p.kind != kindRaft && p.kind != kindRPC {
		return preface{}, errPreface
	}
	var err error
	if p.clusterID, err = readShortString(r); err != nil {
		return preface{}, err
	}
	p.replicaID, err = readShortString(r)
	return p, err
}

func readShortString(r io.Reader) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return string(b), err
}
