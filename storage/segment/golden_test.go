package segment

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

var update = flag.Bool("update", false, "write the golden file anew")

// Objects of version 1 stay readable for ever, those too that do not name their recovery, and a writer makes the same bytes
// again.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "object-v1-recovery.seg")
	s := small(t)
	if *update {
		require.NoError(t, os.WriteFile(path, s.data, 0o600))
	}
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, data, s.data)
	requireGolden(t, s, data, source)
	_, err = s.object.Body().Seek(0, io.SeekEnd)
	require.NoError(t, err)

	older, err := os.ReadFile(filepath.Join("testdata", "object-v1.seg"))
	require.NoError(t, err)
	from := source
	from.RecoveryID = ""
	requireGolden(t, s, older, from)
	footer, err := ReadFooter(t.Context(), s.with(older), objectName, int64(len(older)))
	require.NoError(t, err)
	require.Nil(t, footer.RecoveryId)
}

// requireGolden reads an object that has what small has.
func requireGolden(t *testing.T, s *stored, data []byte, from Source) {
	t.Helper()
	f := s.with(data)
	in, err := Inspect(t.Context(), f, objectName, int64(len(data)))
	require.NoError(t, err)
	require.Equal(t, from, in.Source)
	require.Len(t, in.Segments, 2)
	require.Equal(t, partition(5), in.Segments[0].Partition)
	require.Equal(t, partition(9), in.Segments[1].Partition)
	got, err := NewReader(f, 0).Read(t.Context(), s.ref(0), 103, 100)
	require.NoError(t, err)
	base, next := offsets(t, got)
	require.Equal(t, []int64{103, 104}, []int64{base, next})
}

// TestRecoveryID: an object says of which life of its cluster it is; of one that does not, the name tells.
func TestRecoveryID(t *testing.T) {
	id := func(ms uint64) ulid.ULID { return ulid.MustNew(ms, nil) }
	before, recovery, after := id(1), id(2).String(), id(3)
	first, said := "", id(9).String()
	for name, tc := range map[string]struct {
		object  ulid.ULID
		footer  *string
		current string
		want    string
	}{
		"what it says counts":                {after, &said, recovery, said},
		"of the first life, by a late clock": {after, &first, recovery, ""},
		"it does not say, and is newer":      {after, nil, recovery, recovery},
		"it does not say, and is older":      {before, nil, recovery, ""},
		"there was no recovery":              {after, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, RecoveryID(Name("c1", 3, tc.object), &metav1.ObjectFooter{RecoveryId: tc.footer}, tc.current))
		})
	}
	require.Empty(t, RecoveryID("c1/00/3/no-name.seg", &metav1.ObjectFooter{}, recovery))
}
