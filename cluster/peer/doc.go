// Package peer keeps the gRPC connections to the other nodes of the cluster, one a node, over the transport's listener.
package peer
