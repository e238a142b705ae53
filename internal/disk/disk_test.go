package disk

import (
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLook(t *testing.T) {
	s, err := Look(t.TempDir())
	require.NoError(t, err)
	require.Positive(t, s.Free)
	require.Greater(t, s.Size, s.Free)
	_, err = Look(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}
