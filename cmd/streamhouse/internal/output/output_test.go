package output

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWrite(t *testing.T) {
	rows := &Rows{Titles: []string{"NAME", "PARTITIONS"}}
	rows.Add("a-long-name", 3)
	rows.Add("b", "")
	for f, want := range map[Format]string{
		Table: "NAME         PARTITIONS\na-long-name  3\nb            -\n",
		JSON:  "{\n  \"name\": \"a<b\"\n}\n",
		Value: "a\nb\n",
	} {
		var b bytes.Buffer
		require.NoError(t, Write(&b, f, map[string]string{"name": "a<b"}, rows, []string{"a", "b"}))
		require.Equal(t, want, b.String())
	}
}

func TestFormatFlag(t *testing.T) {
	f := Table
	require.NoError(t, f.Set("json"))
	require.Equal(t, "json", f.String())
	require.EqualError(t, f.Set("xml"), "must be table, json or value")
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 3 << 30: "3.0 GiB", 1 << 62: "4096.0 PiB"} {
		require.Equal(t, want, Bytes(n))
	}
}

func TestProgress(t *testing.T) {
	var b bytes.Buffer
	begin := time.Unix(1000, 0)
	p := NewProgress(&b, 2048, begin)
	p.Draw(begin.Add(time.Second), 1024, 10)
	p.Draw(begin.Add(time.Second+time.Millisecond), 2048, 20) // too soon
	require.Equal(t, "\r\x1b[K["+strings.Repeat("=", 15)+strings.Repeat(" ", 15)+"]  50%  10 records  1.0 KiB  1.0 KiB/s", b.String())
	b.Reset()
	p.Clear()
	require.Equal(t, "\r\x1b[K", b.String())

	b.Reset()
	open := NewProgress(&b, 0, begin)
	open.Draw(begin.Add(2*time.Second), 2048, 3)
	require.Equal(t, "\r\x1b[K3 records  2.0 KiB  1.0 KiB/s", b.String())

	var none *Progress
	none.Draw(begin, 1, 1)
	none.Clear()
	require.False(t, IsTerminal(&b))
}

func TestColouredCellsAlign(t *testing.T) {
	c := Coloured()
	rows := &Rows{Titles: []string{"A", "STATE", "B"}, Style: c}
	rows.Add("é", c.Bad("dead"), 1)
	rows.Add("longer", c.Good("ok"), c.Warn("x"))
	var b bytes.Buffer
	_, err := rows.WriteTo(&b)
	require.NoError(t, err)
	require.Contains(t, b.String(), "\x1b[1mA\x1b[0m")
	require.Equal(t, "A       STATE  B\né       dead   1\nlonger  ok     x\n", painting.ReplaceAllString(b.String(), ""))
	require.Equal(t, "plain", Style{}.Bad("plain"))
}

func TestNobodyReads(t *testing.T) {
	require.False(t, NobodyReads(errors.Join(ErrNobodyReads, errors.New("x"))))
	require.False(t, NobodyReads(errors.New("x")))
	require.True(t, NobodyReads(fmt.Errorf("write: %w", errors.Join(ErrNobodyReads, ErrNobodyReads))))
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer func() { require.NoError(t, writer.Close()) }()
	p := Pipe{W: writer}
	require.NoError(t, p.Check())
	require.NoError(t, reader.Close())
	require.ErrorIs(t, p.Check(), ErrNobodyReads)
	_, err = p.Write([]byte("x"))
	require.ErrorIs(t, err, ErrNobodyReads)
	require.NoError(t, Pipe{W: new(bytes.Buffer)}.Check())
}
