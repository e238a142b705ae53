// Package health says what works in a cluster, what is behind, and what would not work any more if a node stopped. It
// computes, and asks nobody.
package health
