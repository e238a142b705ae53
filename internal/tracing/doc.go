// Package tracing starts the spans of requests and carries their W3C trace context between clients and nodes. All of it
// is optional: without a TracerProvider no span is made, and a caller's trace context still goes along, so that the logs of
// all nodes show its trace id.
package tracing
