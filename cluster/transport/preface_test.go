package transport

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPrefaceGolden(t *testing.T) {
	b, err := preface{kind: kindRaft, group: Shard(5), clusterID: "C1", replicaID: "n1/A"}.encode()
	require.NoError(t, err)
	require.Equal(t, "SHN\x01\x01\x00\x00\x00\x00\x00\x00\x00\x05\x02C1\x04n1/A", string(b))
	b, err = preface{kind: kindRPC, group: Metadata}.encode()
	require.NoError(t, err)
	require.Equal(t, "SHN\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", string(b))
}

func TestPrefaceTooLong(t *testing.T) {
	_, err := preface{kind: kindRaft, replicaID: strings.Repeat("x", 256)}.encode()
	require.ErrorContains(t, err, "longer than 255 bytes")
}

func TestReadPrefaceRefuses(t *testing.T) {
	whole, err := preface{kind: kindRaft, group: Shard(1), clusterID: "C1", replicaID: "n1/A"}.encode()
	require.NoError(t, err)
	with := func(at int, v byte) []byte {
		b := bytes.Clone(whole)
		b[at] = v
		return b
	}
	for name, tt := range map[string]struct {
		bytes []byte
		want  error
	}{
		"nothing":                    {nil, io.EOF},
		"HTTP":                       {[]byte("GET / HTTP/1.1\r\n\r\n"), errPreface},
		"another magic":              {with(0, 'X'), errPreface},
		"a later version":            {with(3, 2), ErrVersion},
		"an unknown kind":            {with(4, 9), errPreface},
		"cut in the middle of an id": {whole[:len(whole)-1], io.ErrUnexpectedEOF},
		"cut behind an id":           {whole[:len(whole)-5], io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readPreface(bytes.NewReader(tt.bytes))
			require.ErrorIs(t, err, tt.want)
		})
	}
}

// What can be read is what was written, to the byte: what follows belongs to Raft or gRPC.
func FuzzReadPreface(f *testing.F) {
	for _, p := range []preface{
		{kind: kindRPC, group: Metadata},
		{kind: kindRaft, group: Shard(1 << 31), clusterID: "01M85PV5J1V99TN2GSQ9D7JV09", replicaID: "n1/01M85PV5J1V99TN2GSQ9D7JV09"},
	} {
		b, err := p.encode()
		require.NoError(f, err)
		f.Add(append(b, "rest"...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		p, err := readPreface(r)
		if err != nil {
			return
		}
		again, err := p.encode()
		require.NoError(t, err)
		require.Equal(t, b[:len(b)-r.Len()], again)
	})
}
