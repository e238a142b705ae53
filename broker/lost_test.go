package broker

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/fsm"
)

// TestReadOfLostRecords: it says that they are lost, and where to read on.
func TestReadOfLostRecords(t *testing.T) {
	p := &fsm.Partition{ID: 7, UploadedEnd: 20, Segments: []fsm.Segment{{Object: fsm.LostObject("C", 7, 10, 20), BaseOffset: 10, EndOffset: 20}}}
	_, err := new(Broker).readHistory(t.Context(), p, 15, 1)
	e := AsError(err)
	require.Equal(t, reasonCorruptData, e.Reason)
	require.Equal(t, map[string]string{"next_offset": "20"}, e.Metadata)
	require.Contains(t, e.Message, "from offset 10 to 19 were lost")
	_, _, found, err := new(Broker).findHistory(t.Context(), p, 0)
	require.NoError(t, err)
	require.False(t, found, "a look-up by time passes over them")
}
