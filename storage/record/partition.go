package record

import "encoding/binary"

// Murmur2 is the hash of Kafka's default partitioner: MurmurHash2, 32 bits, seed 0x9747b28c.
func Murmur2(key []byte) uint32 {
	const m = 0x5bd1e995
	h := uint32(0x9747b28c) ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		k := binary.LittleEndian.Uint32(key) * m
		k ^= k >> 24
		h = h*m ^ k*m
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}

// PartitionForKey returns the partition, 0 to n-1, that Kafka's default partitioner gives a key.
func PartitionForKey(key []byte, n int32) int32 {
	return int32(Murmur2(key)&0x7fffffff) % n
}
