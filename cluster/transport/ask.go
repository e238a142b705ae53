package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// IsMember asks whether a live node of a cluster listens at an address. An address that nobody answers at, or a node of
// another cluster or of none yet, is no member. The error says that something is there and what it is is not known. It
// blocks for some seconds at most.
func IsMember(ctx context.Context, addr, clusterID string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false, nil // nobody is there
	}
	defer func() { _ = conn.Close() }() // Nothing was written that counts.
	// The cluster is compared before the replica, which none has.
	err = greet(ctx, conn, preface{kind: kindRaft, group: Metadata, clusterID: clusterID})
	switch {
	case err == nil, errors.Is(err, ErrNoReplica):
		return true, nil
	case errors.Is(err, ErrWrongCluster):
		return false, nil
	default:
		return false, fmt.Errorf("something listens at %s and does not say who it is: %w", addr, err)
	}
}
