package node

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
)

// node.json holds a CRC32C of itself, as eight hex digits that count as zeros. A file without one was written by an older
// version.
const (
	sumKey     = `"crc32c": "`
	sumDigits  = 8
	noSum      = "00000000"
	sumMissing = -1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeIdentity returns what node.json says, with its sum.
func encodeIdentity(id *identity) ([]byte, error) {
	summed := *id
	summed.Sum = noSum
	data, err := json.MarshalIndent(&summed, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", identityName, err)
	}
	data = append(data, '\n')
	copy(data[sumAt(data):], sumOf(data))
	return data, nil
}

// sumAt is where the digits of the sum are.
func sumAt(data []byte) int {
	i := bytes.Index(data, []byte(sumKey))
	if i < 0 || i+len(sumKey)+sumDigits > len(data) {
		return sumMissing
	}
	return i + len(sumKey)
}

func sumOf(data []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(data, castagnoli))
}

// decodeIdentity reads and checks what node.json says.
func decodeIdentity(data []byte) (identity, error) {
	var id identity
	if err := json.Unmarshal(data, &id); err != nil {
		return id, err
	}
	id.Sum = "" // of the file, not of the node
	at := sumAt(data)
	if at == sumMissing {
		return id, nil
	}
	blank := bytes.Clone(data)
	copy(blank[at:], noSum)
	got := string(data[at : at+sumDigits])
	if _, err := hex.DecodeString(got); err != nil || got != sumOf(blank) {
		return id, fmt.Errorf("its CRC32C is %q, computed %s", got, sumOf(blank))
	}
	return id, nil
}
