package record

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Values of Kafka's own tests.
func TestMurmur2(t *testing.T) {
	tests := map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	}
	for key, want := range tests {
		require.Equal(t, want, int32(Murmur2([]byte(key))), key)
	}
}

func TestPartitionForKey(t *testing.T) {
	for _, key := range []string{"", "a", "21", "foobar", "some longer key"} {
		for _, n := range []int32{1, 3, 100} {
			p := PartitionForKey([]byte(key), n)
			require.GreaterOrEqual(t, p, int32(0))
			require.Less(t, p, n)
			require.Equal(t, p, PartitionForKey([]byte(key), n))
		}
	}
	h := int32(-973932308)
	require.Equal(t, (h&0x7fffffff)%7, PartitionForKey([]byte("21"), 7))
}
