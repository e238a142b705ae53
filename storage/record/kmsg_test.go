package record

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// What is built here is what kmsg reads, and the other way round.
func TestAgainstKmsg(t *testing.T) {
	c := BuilderConfig{ProducerID: 7, ProducerEpoch: 2, BaseSequence: 30}
	ours := build(t, c, sample...)
	var theirs kmsg.RecordBatch
	require.NoError(t, theirs.ReadFrom(ours))
	require.Equal(t, []byte(ours), theirs.AppendTo(nil))
	require.Equal(t, kmsgOf(c, sample), theirs)
	require.Equal(t, ours, seal(theirs), "the CRC is the same")
}

func TestAnyRecordsAgainstKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(anyRecord, 1, 20).Draw(t, "records")
		c := BuilderConfig{
			Compression: rapid.SampledFrom(codecs).Draw(t, "codec"), ProducerID: rapid.Int64Range(-1, math.MaxInt64).Draw(t, "id"),
			ProducerEpoch: rapid.Int16Range(0, math.MaxInt16).Draw(t, "epoch"), BaseSequence: rapid.Int32Range(0, math.MaxInt32).Draw(t, "sequence"),
		}
		bl := NewBuilder(c)
		for _, r := range records {
			bl.Append(r)
		}
		b, err := bl.Build()
		require.NoError(t, err)
		parsed, rest, err := Parse(b)
		require.NoError(t, err)
		require.Empty(t, rest)
		stats, err := parsed.Check(Limits{})
		require.NoError(t, err)
		require.Equal(t, payload(records), stats.PayloadBytes)
		base := rapid.Int64Range(0, 1<<60).Draw(t, "base")
		parsed.SetBaseOffset(base)
		var got []Record
		for r, err := range parsed.All() {
			require.NoError(t, err)
			got = append(got, r)
		}
		require.Equal(t, withOffsets(base, records), got)

		// kmsg's bytes of the same records are ours, before compression.
		c.Compression = None
		bl.Reset(c)
		for _, r := range records {
			bl.Append(r)
		}
		plain, err := bl.Build()
		require.NoError(t, err)
		require.Equal(t, plain, seal(kmsgOf(c, records)))
	})
}

// kmsgOf builds a batch by kmsg alone, without CRC and length being right.
func kmsgOf(c BuilderConfig, records []Record) kmsg.RecordBatch {
	var theirs []kmsg.Record
	base, newest := records[0].TimestampMs, records[0].TimestampMs
	for i, r := range records {
		newest = max(newest, r.TimestampMs)
		k := kmsg.Record{TimestampDelta64: r.TimestampMs - base, OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header(h))
		}
		theirs = append(theirs, k)
	}
	k := kmsgBatch(len(records), encode(theirs...))
	k.FirstTimestamp, k.MaxTimestamp, k.Magic = base, newest, 2
	if c.ProducerID >= 0 {
		k.ProducerID, k.ProducerEpoch, k.FirstSequence = c.ProducerID, c.ProducerEpoch, c.BaseSequence
	}
	var sealed kmsg.RecordBatch
	if err := sealed.ReadFrom(seal(k)); err != nil {
		panic(err)
	}
	return sealed
}

func payload(records []Record) (n int64) {
	for _, r := range records {
		n += int64(len(r.Key) + len(r.Value))
		for _, h := range r.Headers {
			n += int64(len(h.Key) + len(h.Value))
		}
	}
	return n
}

// anyBytes is often null or empty.
var anyBytes = rapid.Custom(func(t *rapid.T) []byte {
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return []byte{}
	default:
		return rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "bytes")
	}
})

var anyRecord = rapid.Custom(func(t *rapid.T) Record {
	r := Record{
		TimestampMs: rapid.Int64Range(-1, 1<<45).Draw(t, "timestamp"),
		Key:         anyBytes.Draw(t, "key"), Value: anyBytes.Draw(t, "value"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "headers") {
		r.Headers = append(r.Headers, Header{Key: rapid.String().Draw(t, "header"), Value: anyBytes.Draw(t, "header value")})
	}
	return r
})
