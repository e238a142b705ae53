// Package node is one StreamHouse server: the only place that knows every part,
// wires them, starts them in the order of their dependence and stops them in
// reverse.
//
// It also owns what makes a directory a node: the lock, the identity in
// node.json, the decision to begin a cluster or to join one, and the
// registration with it.
package node
