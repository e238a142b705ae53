package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/klauspost/compress/snappy"
)

// xerialMagic begins the frame that Kafka's Java client puts around snappy blocks: magic, version and lowest compatible
// version (int32 each), then blocks, each behind its length (int32).
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeaderBytes = 16

var errXerial = errors.New("a xerial frame is cut")

// unsnappy reads one bare block, or a xerial frame of blocks.
func unsnappy(dst, src []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerialMagic) {
		return unsnappyBlock(dst, src, limit)
	}
	if len(src) < xerialHeaderBytes {
		return nil, errXerial
	}
	src = src[xerialHeaderBytes:]
	for len(src) > 0 {
		if len(src) < 4 {
			return nil, errXerial
		}
		n := int(int32(binary.BigEndian.Uint32(src)))
		src = src[4:]
		if n < 0 || n > len(src) {
			return nil, errXerial
		}
		var err error
		if dst, err = unsnappyBlock(dst, src[:n], limit); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return dst, nil
}

// snappyRatio is more than a block of snappy can expand.
const snappyRatio = 64

// unsnappyBlock appends a block to dst. What the block claims to hold is bounded before room is made for it.
func unsnappyBlock(dst, block []byte, limit int) ([]byte, error) {
	n, err := snappy.DecodedLen(block)
	if err != nil {
		return nil, err
	}
	if n > snappyRatio*len(block) {
		return nil, snappy.ErrCorrupt
	}
	if n > limit-len(dst) {
		return nil, errOverLimit
	}
	dst = slices.Grow(dst, n)
	// Strict: what only s2 can read would be lost to other clients.
	out, err := snappy.DecodeStrict(dst[len(dst):len(dst)+n], block)
	if err != nil {
		return nil, err
	}
	return dst[:len(dst)+len(out)], nil
}
