package gossip

import (
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
	"github.com/stretchr/testify/require"
)

func TestMetaRoundTrip(t *testing.T) {
	long := strings.Repeat("h", 200) + ".example.com"
	for name, m := range map[string]Member{
		"least": {NodeID: "a", Incarnation: incarnation(1)},
		"one host": {
			NodeID: "a", Incarnation: incarnation(1), ClusterID: "c", Zone: "z", Fresh: true, Settled: true, Leaving: true, BootstrapExpect: 3,
			RaftAddr: long + ":1", GRPCAddr: long + ":2", HTTPAddr: long + ":3", GossipAddr: long + ":4",
		},
		"hosts differ": {
			NodeID: "a", Incarnation: incarnation(1),
			RaftAddr: "[::1]:1", GRPCAddr: "b:2", HTTPAddr: ":3", GossipAddr: "[::1]:4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := encodeMeta(&m)
			require.NoError(t, err)
			got, err := decodeMember(m.name(), b)
			require.NoError(t, err)
			if name == "hosts differ" {
				m.HTTPAddr = "[::1]:3"
			}
			require.Equal(t, m, got)
		})
	}
}

// A later version may add fields behind ours.
func TestMetaOfLaterVersion(t *testing.T) {
	m := Member{NodeID: "a", Incarnation: incarnation(1), ClusterID: "c"}
	b, err := encodeMeta(&m)
	require.NoError(t, err)
	b[0]++
	got, err := decodeMember(m.name(), append(b, "more"...))
	require.NoError(t, err)
	require.Equal(t, m, got)
}

func TestMetaRefusesDamage(t *testing.T) {
	m := Member{NodeID: "a", Incarnation: incarnation(1), ClusterID: "c", RaftAddr: "h:1"}
	good, err := encodeMeta(&m)
	require.NoError(t, err)
	for n := range good {
		_, err := decodeMember(m.name(), good[:n])
		require.ErrorIs(t, err, errBadMeta, "cut to %d bytes", n)
	}
	for _, name := range []string{"", "a", "a/", "/" + incarnation(1), "a b/" + incarnation(1)} {
		_, err := decodeMember(name, good)
		require.ErrorIs(t, err, errBadMeta, name)
	}
}

func FuzzDecodeMember(f *testing.F) {
	m := Member{NodeID: "a", Incarnation: incarnation(1), ClusterID: "c", Zone: "z", RaftAddr: "h:1", GRPCAddr: "h:2"}
	good, err := encodeMeta(&m)
	require.NoError(f, err)
	f.Add(m.name(), good)
	f.Add(m.name(), []byte{1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, name string, meta []byte) {
		m, err := decodeMember(name, meta)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(meta), memberlist.MetaMaxSize)
		b, err := encodeMeta(&m)
		if err != nil {
			return
		}
		again, err := decodeMember(m.name(), b)
		require.NoError(t, err)
		require.Equal(t, m.NodeID, again.NodeID)
		require.Equal(t, m.ClusterID, again.ClusterID)
	})
}
