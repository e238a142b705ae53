// Package group decides who is a member of a consumer group and which member owns which partition. It is pure: what a
// group becomes depends on its commands alone, so that every replica of its shard has the same one. The protocol is
// that of KIP-848: the coordinator assigns, a member answers with what it still owns, and a partition is handed over
// only after its old owner has given it up or was removed.
package group
