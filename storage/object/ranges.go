package object

import (
	"context"
	"errors"
	"io"
)

// Getter is the part of a Bucket that Ranges needs.
type Getter interface {
	// Get is Bucket's.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
}

// Ranges reads ranges of objects straight from the object store, where segment.RangeReader is wanted. It is as safe for
// concurrent use as its Getter.
type Ranges struct{ Getter }

// ReadRange returns length bytes from offset, fewer where the object ends. The caller owns them. Errors are Get's, and those
// of reading.
func (r Ranges) ReadRange(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	body, err := r.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(body, length))
	return data, errors.Join(err, body.Close())
}
