package disk

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, content := range []string{"longer", "short", ""} {
		require.NoError(t, WriteFile(path, []byte(content), 0o600))
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, string(got))
		require.NoFileExists(t, path+".tmp")
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	require.ErrorIs(t, WriteFile(filepath.Join(t.TempDir(), "none", "state"), nil, 0o600), fs.ErrNotExist)
}

// What can't be written leaves the file as it was.
func TestFailedWriteLeavesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	require.NoError(t, WriteFile(path, []byte("old"), 0o600))
	require.NoError(t, os.Mkdir(path+".tmp", 0o700))
	require.Error(t, WriteFile(path, []byte("new"), 0o600))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(got))
}
