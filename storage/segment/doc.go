// Package segment writes and reads objects: the form in which record batches are kept in the object store.
//
// An object holds segments, each a run of one partition's record batches, then an index of each segment, and a footer
// that describes the object without the help of anything else. An object is written once and never changed.
//
// A [Writer] keeps views of the batches it is given; [Object.Body] streams them out of these views, with the offsets
// that the partition gave them. A [Reader] reads batches and looks up times by what the manifest says of a segment.
// [ReadFooter] and [Inspect] need the object alone.
//
// Everything is under a CRC32C, and everything that is read is checked before it is used. What fails a check is a
// [CorruptError], which names the object and the position. The format is described in docs/format/object.md.
package segment
