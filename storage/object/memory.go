package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a Bucket for tests. Before and After inject faults.
type Memory struct {
	// Before, when set, is called before every operation; its error ends the operation, which then did nothing.
	Before func(ctx context.Context, operation, name string) error
	// After, when set, is called when the operation was done; its error is returned all the same.
	After func(ctx context.Context, operation, name string) error

	mu      sync.Mutex
	objects map[string]memoryObject
}

type memoryObject struct {
	data    []byte
	modTime time.Time
}

var _ Bucket = (*Memory)(nil)

// NewMemory returns an empty bucket. Set the hooks before it is used.
func NewMemory() *Memory { return &Memory{objects: make(map[string]memoryObject)} }

func hook(f func(context.Context, string, string) error, ctx context.Context, op, name string) error { //nolint:revive // f is what it is about
	if f == nil {
		return nil
	}
	return f(ctx, op, name)
}

func (m *Memory) do(ctx context.Context, op, name string, fn func() error) error {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return err
	}
	if err := hook(m.Before, ctx, op, name); err != nil {
		return err
	}
	m.mu.Lock()
	err := fn()
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("object %s: %w", name, err)
	}
	return hook(m.After, ctx, op, name)
}

// Put implements Bucket.
func (m *Memory) Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if int64(len(data)) != sizeBytes {
		return fmt.Errorf("object %s: body has %d bytes, announced were %d", name, len(data), sizeBytes)
	}
	return m.do(ctx, opPut, name, func() error {
		if _, ok := m.objects[name]; ok {
			return ErrExists
		}
		m.objects[name] = memoryObject{data, time.Now()}
		return nil
	})
}

// Get implements Bucket.
func (m *Memory) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	var data []byte
	err := m.do(ctx, opGet, name, func() error {
		o, ok := m.objects[name]
		if !ok {
			return ErrNotFound
		}
		data = o.data[min(offset, int64(len(o.data))):]
		if length >= 0 {
			data = data[:min(length, int64(len(data)))]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Head implements Bucket.
func (m *Memory) Head(ctx context.Context, name string) (a Attributes, err error) {
	err = m.do(ctx, opHead, name, func() error {
		o, ok := m.objects[name]
		if !ok {
			return ErrNotFound
		}
		a = Attributes{Name: name, SizeBytes: int64(len(o.data)), ModTime: o.modTime}
		return nil
	})
	return a, err
}

// memoryPage is how many objects one List gives.
const memoryPage = 100

// List implements Bucket.
func (m *Memory) List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error) {
	if err := errors.Join(ctx.Err(), hook(m.Before, ctx, opList, prefix)); err != nil {
		return nil, false, err
	}
	m.mu.Lock()
	for _, name := range slices.Sorted(maps.Keys(m.objects)) {
		if strings.HasPrefix(name, prefix) && name > after {
			page = append(page, Attributes{Name: name, SizeBytes: int64(len(m.objects[name].data)), ModTime: m.objects[name].modTime})
		}
	}
	m.mu.Unlock()
	if more = len(page) > memoryPage; more {
		page = page[:memoryPage]
	}
	return page, more, hook(m.After, ctx, opList, prefix)
}

// Delete implements Bucket.
func (m *Memory) Delete(ctx context.Context, name string) error {
	return m.do(ctx, opDelete, name, func() error {
		delete(m.objects, name)
		return nil
	})
}
