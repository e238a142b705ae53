package rpc

import (
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that this one stands on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// codec is gRPC's codec for protobuf, but that the bytes of keys, values and record batches in requests to write alias
// the buffer they came in: a leader would else allocate every byte that it takes. The buffer is held until release is
// called with the request; a request that is never released is left to the garbage collector. Safe for concurrent use.
type codec struct {
	encoding.CodecV2 // for all else

	held sync.Map // request → mem.Buffer
}

func newCodec() *codec { return &codec{CodecV2: encoding.GetCodecV2("proto")} }

// release gives back the buffer that a request aliases. Nothing may use the request's bytes any more.
func (c *codec) release(req any) {
	if buf, ok := c.held.LoadAndDelete(req); ok {
		buf.(mem.Buffer).Free()
	}
}

// Unmarshal implements encoding.CodecV2.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	decode := decoderOf(v)
	if decode == nil {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	if err := decode(buf.ReadOnlyData()); err != nil {
		buf.Free()
		return fmt.Errorf("decode %T: %w", v, err)
	}
	c.held.Store(v, buf)
	return nil
}

// decoderOf returns what decodes a message of a type that carries much, nil for all other types.
func decoderOf(v any) func([]byte) error {
	switch m := v.(type) {
	case *nodev1.AppendRequest:
		return func(b []byte) error { return decodeAppend(b, m) }
	case *streamhousev1.ProduceRecordBatchesRequest:
		return func(b []byte) error { return decodeRaw(b, m) }
	case *streamhousev1.ProduceBatchRequest:
		return func(b []byte) error { return decodeBatch(b, m) }
	case *streamhousev1.ProduceStreamRequest:
		return func(b []byte) error { return decodeStream(b, m) }
	default:
		return nil
	}
}

// split calls take for every field of b that is bytes or a message, and lets protobuf decode those that it does not
// take. What take gets aliases b.
func split(b []byte, m proto.Message, take func(num protowire.Number, val []byte) (bool, error)) error {
	var rest []byte
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		taken := false
		if typ == protowire.BytesType {
			val, _ := protowire.ConsumeBytes(b[n:])
			var err error
			if taken, err = take(num, slices.Clip(val)); err != nil {
				return err
			}
		}
		if !taken {
			rest = append(rest, b[:n+size]...)
		}
		b = b[n+size:]
	}
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(rest, m)
}

func decodeAppend(b []byte, m *nodev1.AppendRequest) error {
	return split(b, m, func(num protowire.Number, val []byte) (bool, error) {
		if num != 2 { // batches
			return false, nil
		}
		batch := &nodev1.PartitionBatch{}
		m.Batches = append(m.Batches, batch)
		return true, split(val, batch, func(num protowire.Number, val []byte) (bool, error) {
			if num != 2 { // record_batch
				return false, nil
			}
			batch.RecordBatch = val
			return true, nil
		})
	})
}

func decodeRaw(b []byte, m *streamhousev1.ProduceRecordBatchesRequest) error {
	return split(b, m, func(num protowire.Number, val []byte) (bool, error) {
		if num != 3 { // record_batches
			return false, nil
		}
		m.RecordBatches = val
		return true, nil
	})
}

func decodeBatch(b []byte, m *streamhousev1.ProduceBatchRequest) error {
	return split(b, m, func(num protowire.Number, val []byte) (bool, error) {
		if num != 3 { // records
			return false, nil
		}
		r := &streamhousev1.Record{}
		m.Records = append(m.Records, r)
		return true, split(val, r, func(num protowire.Number, val []byte) (bool, error) {
			switch num {
			case 1:
				r.Key = val
			case 2:
				r.Value = val
			default:
				return false, nil
			}
			return true, nil
		})
	})
}

// decodeStream takes the one write of a request. A second one, which no client sends, replaces it or is merged into it:
// that is left to protobuf.
func decodeStream(b []byte, m *streamhousev1.ProduceStreamRequest) error {
	writes := 0
	err := split(b, m, func(num protowire.Number, val []byte) (bool, error) {
		switch num {
		case 2:
			req := &streamhousev1.ProduceBatchRequest{}
			m.Write = &streamhousev1.ProduceStreamRequest_Batch{Batch: req}
			writes++
			return true, decodeBatch(val, req)
		case 3:
			req := &streamhousev1.ProduceRecordBatchesRequest{}
			m.Write = &streamhousev1.ProduceStreamRequest_RecordBatches{RecordBatches: req}
			writes++
			return true, decodeRaw(val, req)
		default:
			return false, nil
		}
	})
	if err == nil && writes > 1 {
		proto.Reset(m)
		return proto.Unmarshal(b, m)
	}
	return err
}
