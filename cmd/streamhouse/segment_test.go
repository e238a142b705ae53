package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// writeObject writes an object of two partitions and returns its file.
func writeObject(t *testing.T, dir string) string {
	t.Helper()
	w := segment.NewWriter(segment.Source{ClusterID: "01J0000000000000000000000C", NodeID: "n1", Shard: 2, CreatedMs: 1767225600000})
	for p := range 2 {
		w.Begin(segment.Partition{ID: uint64(p + 1), Topic: "events", Number: int32(p), TopicUUID: [16]byte{0xab}})
		b := record.NewBuilder(record.BuilderConfig{ProducerID: -1})
		for range 3 {
			b.Append(record.Record{TimestampMs: 1767225600000, Value: []byte("hello")})
		}
		batch, err := b.Build()
		require.NoError(t, err)
		w.Append(batch, int64(10*p))
	}
	o, err := w.Finish()
	require.NoError(t, err)
	bucket, err := object.NewDirectory(dir)
	require.NoError(t, err)
	name := segment.Name("01J0000000000000000000000C", 2, ulid.MustParse("01J00000000000000000000001"))
	require.NoError(t, bucket.Put(t.Context(), name, o.Body(), o.SizeBytes))
	return filepath.Join(dir, name)
}

func TestSegmentInspect(t *testing.T) {
	file := writeObject(t, t.TempDir())
	s := &shell{t: t}
	golden(t, "segment-inspect.txt", s.ok("", "segment", "inspect", "file://"+file))
	require.Equal(t, "events/0\nevents/1\n", s.ok("", "segment", "inspect", "file://"+file, "-o", "value"))
	var j inspectionJSON
	require.NoError(t, json.Unmarshal([]byte(s.ok("", "segment", "inspect", "file://"+file, "-o", "json")), &j))
	require.Equal(t, "file://"+file, j.Object)
	require.Len(t, j.Segments, 2)
	require.EqualValues(t, 13, j.Segments[1].EndOffset)
	require.Equal(t, map[string]int64{"none": 1}, j.Segments[1].Batches)
}

func TestSegmentInspectFindsDamage(t *testing.T) {
	file := writeObject(t, t.TempDir())
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	data[100] ^= 1
	require.NoError(t, os.WriteFile(file, data, 0o600))
	r := (&shell{t: t}).run("", "segment", "inspect", "file://"+file)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, filepath.Base(file))
	require.Contains(t, r.stdout, "ok\n", "the other segment is shown all the same")
}

func TestSegmentInspectRefuses(t *testing.T) {
	dir := t.TempDir()
	for url, want := range map[string]string{
		"x.seg":                       `URL "x.seg": must be s3://BUCKET/…/NAME?region=… or file:///…/NAME`,
		"http://host/x.seg":           `URL "http://host/x.seg": must be s3://BUCKET/…/NAME?region=… or file:///…/NAME`,
		"file://" + dir + "/":         "must be s3://BUCKET",
		"file://" + dir + "/no/x.seg": "URL: stat " + dir + "/no: no such file or directory",
		"file://" + dir + "/x.seg":    "object not found",
	} {
		r := (&shell{t: t}).run("", "segment", "inspect", url)
		code := exitFailed
		if strings.Contains(want, "must be") {
			code = exitUsage
		}
		require.Equal(t, code, r.code)
		require.Contains(t, r.stderr, want)
		require.NoDirExists(t, dir+"/no")
	}
}
