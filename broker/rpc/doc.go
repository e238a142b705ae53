// Package rpc puts the broker on the wire: handlers of the public services and of the service between nodes,
// interceptors, and the one file that maps errors to gRPC codes and back.
package rpc
