package object

import (
	"context"
	"io"
	"strings"
)

// WithPrefix returns the part of b whose names begin with prefix and a slash; without a prefix it is b.
func WithPrefix(b Bucket, prefix string) Bucket {
	prefix = strings.Trim(prefix, "/")
	if prefix == "" {
		return b
	}
	return &prefixed{b, prefix + "/"}
}

type prefixed struct {
	b      Bucket
	prefix string
}

// Put implements Bucket.
func (p *prefixed) Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error {
	return p.b.Put(ctx, p.prefix+name, body, sizeBytes)
}

// Get implements Bucket.
func (p *prefixed) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	return p.b.Get(ctx, p.prefix+name, offset, length)
}

// Head implements Bucket.
func (p *prefixed) Head(ctx context.Context, name string) (Attributes, error) {
	a, err := p.b.Head(ctx, p.prefix+name)
	a.Name = strings.TrimPrefix(a.Name, p.prefix)
	return a, err
}

// List implements Bucket.
func (p *prefixed) List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error) {
	if after != "" {
		after = p.prefix + after
	}
	page, more, err = p.b.List(ctx, p.prefix+prefix, after)
	for i := range page {
		page[i].Name = strings.TrimPrefix(page[i].Name, p.prefix)
	}
	return page, more, err
}

// Delete implements Bucket.
func (p *prefixed) Delete(ctx context.Context, name string) error {
	return p.b.Delete(ctx, p.prefix+name)
}
