//go:build !linux

package harness

// ownerOf needs Linux.
func ownerOf(string, string, map[int]string) (string, error) { return "", errNoOwner }
