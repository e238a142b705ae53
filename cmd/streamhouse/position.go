package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/streamhouse/streamhouse/client"
)

// position is a place in a topic: what a group has committed, an offset, or else at.
type position struct {
	committed bool
	offset    *int64
	at        client.Position
}

// parsePosition reads the value of a flag; "" is what the group has committed.
func parsePosition(flag, s string) (position, error) {
	switch s {
	case "":
		return position{committed: true, at: client.LogStart}, nil
	case "beginning":
		return position{at: client.LogStart}, nil
	case "end":
		return position{at: client.LogEnd}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return position{offset: &n}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return position{at: client.AtTime(t)}, nil
	}
	return position{}, fmt.Errorf("%s %q: must be beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z", flag, s)
}

// listOffsets returns the offset of a position in partitions of a topic; no partitions are all.
func listOffsets(ctx context.Context, admin *client.Admin, topic string, at client.Position, partitions ...int32) (map[int32]int64, error) {
	offsets, err := admin.ListOffsets(ctx, topic, at, partitions...)
	return offsets, plain(err)
}
