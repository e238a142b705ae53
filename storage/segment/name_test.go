package segment

import (
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

func TestName(t *testing.T) {
	id := ulid.MustParseStrict("01JDXQ4H6ZC3V9E8M2K7N5R1ST")
	name := Name("01JCLUSTER", 17, id)
	require.Equal(t, "01JCLUSTER/8b/17/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg", name)
	cluster, shard, got, err := ParseName(name)
	require.NoError(t, err)
	require.Equal(t, "01JCLUSTER", cluster)
	require.Equal(t, uint32(17), shard)
	require.Equal(t, id, got)
}

func TestNamesSpread(t *testing.T) {
	hashes := make(map[byte]int)
	for i := range 10_000 {
		id := ulid.ULID{5: 7, 14: byte(i >> 8), 15: byte(i)}
		hashes[nameHash(id.String())]++
	}
	require.Len(t, hashes, 256)
	for h, n := range hashes {
		require.Less(t, n, 200, "hash %02x", h)
	}
}

func TestParseNameRefuses(t *testing.T) {
	for _, name := range []string{
		"", "cluster.json", "c/8b/17/01JDXQ4H6ZC3V9E8M2K7N5R1ST", "c/8b/17/x.seg", "c/8b/-1/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg",
		"c/8c/17/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg", "c/8b/017/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg", "/8b/17/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg",
		"c/8B/17/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg", "c/8b/17/01jdxq4h6zc3v9e8m2k7n5r1st.seg", "p/c/8b/17/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg",
		"c/8b/99999999999/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg",
	} {
		_, _, _, err := ParseName(name)
		require.Error(t, err, name)
	}
}
