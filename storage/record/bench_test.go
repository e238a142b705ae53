package record

import (
	"bytes"
	"fmt"
	"testing"
)

func benchRecord(bytesEach int) Record {
	return Record{TimestampMs: 1_700_000_000_000, Key: []byte("key-0123"), Value: bytes.Repeat([]byte("value 42 "), bytesEach/9+1)[:bytesEach]}
}

func BenchmarkBuild(b *testing.B) {
	const records = 100
	for _, codec := range codecs {
		for _, size := range []int{100, 1024} {
			b.Run(fmt.Sprintf("compression=%s/record=%dB", codec, size), func(b *testing.B) {
				bl := NewBuilder(BuilderConfig{})
				r := benchRecord(size)
				b.SetBytes(int64(records * size))
				b.ReportAllocs()
				for b.Loop() {
					bl.Reset(BuilderConfig{Compression: codec, ProducerID: -1})
					for range records {
						bl.Append(r)
					}
					if _, err := bl.Build(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkParseAndCheck(b *testing.B) {
	benchRead(b, func(batch Batch) error {
		parsed, _, err := Parse(batch)
		if err == nil {
			_, err = parsed.Check(Limits{MaxBatchBytes: 1 << 20})
		}
		return err
	})
}

func BenchmarkAll(b *testing.B) {
	benchRead(b, func(batch Batch) error {
		for _, err := range batch.All() {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func benchRead(b *testing.B, read func(Batch) error) {
	b.Helper()
	const records = 100
	for _, codec := range codecs {
		for _, size := range []int{100, 1024} {
			b.Run(fmt.Sprintf("compression=%s/record=%dB", codec, size), func(b *testing.B) {
				rs := make([]Record, records)
				for i := range rs {
					rs[i] = benchRecord(size)
				}
				batch := build(b, BuilderConfig{Compression: codec, ProducerID: -1}, rs...)
				b.SetBytes(int64(records * size))
				b.ReportAllocs()
				for b.Loop() {
					if err := read(batch); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
