package simulation

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTraceHears(t *testing.T) {
	var text strings.Builder
	trace := NewTrace(&text)
	said, byAny := trace.Hear("n1", "replica runs"), trace.Hear("", "replica runs")
	_, err := trace.logs("n2").Write([]byte("level=INFO msg=\"replica runs\"\n"))
	require.NoError(t, err)
	<-byAny
	_, err = trace.logs("n1").Write([]byte("level=INFO msg=other\n"))
	require.NoError(t, err)
	select {
	case <-said:
		t.Fatal("nobody has said it")
	default:
	}
	_, err = trace.logs("n1").Write([]byte("level=INFO msg=more\nlevel=INFO msg=\"replica runs\"\n"))
	require.NoError(t, err)
	<-said
	require.NoError(t, trace.Flush())
	require.Equal(t, 4, strings.Count(text.String(), "msg="))
}
