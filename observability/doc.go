// Package observability shows what a node does: the registry of its metrics
// with what is the same for every node, its logger, its health, and the HTTP
// listener that serves them.
//
// The packages that count do not import it: they take a prometheus.Registerer
// and a *slog.Logger.
package observability
