// Package recovery keeps in the object store what a cluster needs to begin again once all of its nodes are gone, and
// makes the metadata anew from it.
//
// The leader of the metadata group writes checkpoints: snapshots of the metadata, under names of their own. Plan takes
// the newest one, adds what the footers of newer objects say, and tells what it has found. Execute puts the result into
// the object store, where the first of the new nodes claims it, which only one can.
//
// A recovery that was claimed is a new life of the cluster: a node of an older one is refused by Superseded, so that
// it neither joins nor deletes.
package recovery
