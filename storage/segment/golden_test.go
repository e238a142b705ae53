package segment

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden file anew")

// Objects of version 1 stay readable for ever, and a writer makes the same bytes again.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "object-v1.seg")
	s := small(t)
	if *update {
		require.NoError(t, os.WriteFile(path, s.data, 0o600))
	}
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, data, s.data)

	f := s.with(data)
	in, err := Inspect(t.Context(), f, objectName, int64(len(data)))
	require.NoError(t, err)
	require.Equal(t, source, in.Source)
	require.Len(t, in.Segments, 2)
	require.Equal(t, partition(5), in.Segments[0].Partition)
	require.Equal(t, partition(9), in.Segments[1].Partition)
	got, err := NewReader(f, 0).Read(t.Context(), s.ref(0), 103, 100)
	require.NoError(t, err)
	base, next := offsets(t, got)
	require.Equal(t, []int64{103, 104}, []int64{base, next})
	_, err = s.object.Body().Seek(0, io.SeekEnd)
	require.NoError(t, err)
}
