// Package wire is a network in memory, with latency, on the clock of the bubble (testing/synctest) that it is made in.
//
// Links between hosts can be cut, one way or both, slowed, and made to lose and repeat datagrams. What a cut keeps off
// a connection is not lost: it arrives once the cut is healed, as with TCP, where the connection lives that long.
package wire
