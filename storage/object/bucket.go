package object

import (
	"context"
	"errors"
	"io"
	"time"
)

// Attributes describe an object.
type Attributes struct {
	Name      string
	SizeBytes int64
	ModTime   time.Time
}

// Bucket holds objects by name. Implementations are safe for concurrent use. Every call ends with ctx at the latest.
// A name is made of parts of [a-zA-Z0-9._-]+ with slashes between; no part is "." or "..".
type Bucket interface {
	// Put creates an object of sizeBytes from body, which it reads from the start. ErrExists when there is one of this
	// name. After any other error the outcome is unknown: the object may be there, whole, now or later.
	Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error
	// Get reads length bytes from offset, or to the end with length -1. It gives fewer bytes where the object ends, and
	// none at or beyond its end. ErrNotFound without the object. The caller closes the reader.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Head returns an object's attributes, or ErrNotFound.
	Head(ctx context.Context, name string) (Attributes, error)
	// List returns the objects whose names begin with prefix and come behind after, by name, as many as the store gives
	// at once. more says that there may be others behind them. See All.
	List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error
}

var (
	// ErrExists says that an object of this name is there, and was not changed.
	ErrExists = errors.New("object exists")
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("object not found")
	// ErrUnavailable says that the object store did not answer, or asked to slow down: trying again may help.
	ErrUnavailable = errors.New("object store is unavailable")
	// ErrDenied says that the object store refuses: credentials, permissions, or a store that can't be written.
	ErrDenied = errors.New("object store refuses access")
	// ErrInvalidURL says that the URL of an object store can't be understood.
	ErrInvalidURL = errors.New("bad object store URL")
	// ErrInvalidName says that a name is not one that every store takes.
	ErrInvalidName = errors.New("bad object name")
)

// Lister is the part of a Bucket that All needs.
type Lister interface {
	// List is Bucket's.
	List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error)
}

// All calls fn for every object whose name begins with prefix, by name, until fn fails, and returns fn's error.
func All(ctx context.Context, b Lister, prefix string, fn func(Attributes) error) error {
	after := ""
	for more := true; more; {
		var page []Attributes
		var err error
		if page, more, err = b.List(ctx, prefix, after); err != nil {
			return err
		}
		for _, a := range page {
			if err := fn(a); err != nil {
				return err
			}
			after = a.Name
		}
		more = more && len(page) > 0
	}
	return nil
}

// checkName refuses names that a store could misread.
func checkName(name string) error {
	part := 0
	dots := true
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '/' {
			if part == 0 || (dots && part <= 2) {
				return errors.Join(ErrInvalidName, errors.New(name))
			}
			part, dots = 0, true
			continue
		}
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return errors.Join(ErrInvalidName, errors.New(name))
		}
		dots = dots && c == '.'
		part++
	}
	return nil
}
