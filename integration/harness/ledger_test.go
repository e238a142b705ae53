package harness

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// The verifier itself: it finds what must not happen, and nothing else.
func TestLedgerFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	type at struct {
		offset   int64
		producer string
		number   int64
	}
	for _, tt := range []struct {
		name string
		read []at
		want string
	}{
		{"all there", []at{{0, "a", 0}, {1, "b", 0}, {2, "a", 1}, {3, "a", 2}}, ""},
		{"more than acknowledged", []at{{0, "a", 0}, {1, "b", 0}, {2, "a", 1}, {3, "a", 2}, {4, "b", 1}}, ""},
		{"the end is lost", []at{{0, "a", 0}, {1, "b", 0}, {2, "a", 1}}, "LOST"},
		{"all is lost", nil, "LOST"},
		{"a hole in the offsets", []at{{0, "a", 0}, {2, "a", 1}}, "NOT DENSE"},
		{"an offset twice", []at{{0, "a", 0}, {0, "b", 0}}, "NOT DENSE"},
		{"one record twice", []at{{0, "a", 0}, {1, "b", 0}, {2, "a", 0}}, "DUPLICATE"},
		{"one record missing", []at{{0, "a", 0}, {1, "b", 0}, {2, "a", 2}}, "GAP"},
		{"records in another order", []at{{0, "a", 1}, {1, "b", 0}, {2, "a", 0}}, "REORDERED"},
		{"at another offset", []at{{0, "b", 0}, {1, "a", 0}, {2, "a", 1}, {3, "a", 2}}, "MOVED"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := NewLedger("topic")
			l.Ack(0, "a", 0, 1, 0)
			l.Ack(0, "b", 0, 1, 1)
			l.Ack(0, "a", 1, 2, 2)
			require.Equal(t, int64(4), l.Acked())
			v := l.newCheck(0)
			var err error
			for _, r := range tt.read {
				if err = v.record(&streamhousev1.ConsumedRecord{Offset: r.offset, Value: Value(r.producer, 0, r.number, 100)}); err != nil {
					break
				}
			}
			if err == nil {
				_, err = l.checkAcked(v, int64(len(tt.read)))
			}
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// TestTornValue: a value is what its producer wrote, to the last byte.
func TestTornValue(t *testing.T) {
	whole := Value("p", 0, 7, 200)
	_, number, err := parseValue(whole)
	require.NoError(t, err)
	require.Equal(t, int64(7), number)
	flipped := bytes.Clone(whole)
	flipped[150] ^= 1
	for name, v := range map[string][]byte{"cut": whole[:199], "longer": append(bytes.Clone(whole), 'x'), "flipped": flipped} {
		_, _, err := parseValue(v)
		require.ErrorContains(t, err, "TORN", name)
	}
	_, _, err = parseValue(Value("producer", 3, 1, 1))
	require.NoError(t, err, "a value is as long as what it begins with at least")
}
