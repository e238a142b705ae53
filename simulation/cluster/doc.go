// Package cluster runs the nodes of a cluster in one bubble (testing/synctest): all of each node but its edges, which are
// a network, disks and an object store in memory. A node is crashed by taking it off its network and its disk, and a new
// one is started on what the crash has left of its directory.
package cluster
