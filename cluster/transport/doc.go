// Package transport is the one listener and dialer between nodes: it carries the connections of all Raft groups and
// the node-to-node gRPC calls.
//
// Every connection begins with a preface that says which cluster, group and replica it is for; the receiver refuses
// others' (docs/format/raft-preface.md). Behind it, a Raft connection speaks hashicorp/raft's own protocol. A
// connection belongs to its replica for life and is closed with it.
package transport
