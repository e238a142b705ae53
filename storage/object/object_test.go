package object_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/object/objecttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newDirectory(t *testing.T) (bucket object.Bucket, root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "store")
	b, err := object.Open(t.Context(), "file://"+root)
	require.NoError(t, err)
	return b, root
}

func TestBuckets(t *testing.T) {
	directory := func(t *testing.T) object.Bucket {
		t.Helper()
		b, _ := newDirectory(t)
		return b
	}
	memory := func(*testing.T) object.Bucket { return object.NewMemory() }
	for name, open := range map[string]func(*testing.T) object.Bucket{
		"memory":    memory,
		"directory": directory,
		"prefix":    func(t *testing.T) object.Bucket { t.Helper(); return object.WithPrefix(directory(t), "a/b") },
		"wrapped": func(*testing.T) object.Bucket {
			m := object.NewMetrics(nil)
			return object.WithRetry(object.WithMetrics(object.NewMemory(), m), object.RetryConfig{Metrics: m})
		},
	} {
		t.Run(name, func(t *testing.T) { objecttest.Run(t, open) })
	}
}

// A file that is being written is no object, also when the process died over it.
func TestDirectoryHidesWhatIsNotWhole(t *testing.T) {
	b, root := newDirectory(t)
	body := strings.NewReader("12345")
	require.Error(t, b.Put(t.Context(), "a/o", body, 6), "the body is shorter than announced")
	_, err := b.Head(t.Context(), "a/o")
	require.ErrorIs(t, err, object.ErrNotFound)
	require.NoError(t, os.WriteFile(filepath.Join(root, ".tmp-123"), []byte("1234"), 0o600))
	page, more, err := b.List(t.Context(), "", "")
	require.NoError(t, err)
	require.False(t, more)
	require.Empty(t, page)
}

func TestDirectoryErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := object.Open(t.Context(), "file://"+file)
	require.ErrorIs(t, err, object.ErrDenied)
	require.ErrorContains(t, err, file)
}

func TestOpenRefuses(t *testing.T) {
	for url, want := range map[string]string{
		"":                                    "want s3://",
		"ftp://host/x":                        "want s3://",
		"file://host/dir":                     "absolute directory",
		"file:relative":                       "absolute directory",
		"s3://":                               "no bucket",
		"s3://b/a b":                          "prefix",
		"s3://b?colour=red":                   "unknown parameter",
		"s3://b?path_style=maybe":             "path_style=maybe",
		"s3://b?endpoint=localhost:9000":      "http://HOST:PORT",
		"s3://b?region=eu&endpoint=http%3A//": "http://HOST:PORT",
	} {
		_, err := object.Open(t.Context(), url)
		require.ErrorIs(t, err, object.ErrInvalidURL, url)
		require.ErrorContains(t, err, want, url)
	}
}
