package shard

import (
	"testing"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

func TestEntryRoundTrip(t *testing.T) {
	a, b := plain(t, 3, "a"), plain(t, 1, "b")
	kind, timeMs, body, err := entryHeader(encodeAppend(5, AppendBatch{PartitionID: 1, Data: a}, AppendBatch{PartitionID: 9, Data: b}))
	require.NoError(t, err)
	require.Equal(t, kindAppend, kind)
	require.Equal(t, int64(5), timeMs)
	var got []AppendBatch
	require.NoError(t, eachAppend(body, func(i int, id uint64, b record.Batch) error {
		require.Len(t, got, i)
		got = append(got, AppendBatch{PartitionID: id, Data: b})
		return nil
	}))
	require.Equal(t, []AppendBatch{{PartitionID: 1, Data: a}, {PartitionID: 9, Data: b}}, got)

	_, _, body, err = entryHeader(encodeUploaded(5, []uploadedEnd{{1, 10}, {2, 20}}))
	require.NoError(t, err)
	ends, err := decodeUploaded(body)
	require.NoError(t, err)
	require.Equal(t, []uploadedEnd{{1, 10}, {2, 20}}, ends)

	_, _, body, err = entryHeader(encodeDrop(5, []uint64{1, 2}))
	require.NoError(t, err)
	ids, err := decodeDrop(body)
	require.NoError(t, err)
	require.Equal(t, []uint64{1, 2}, ids)

	want := offsetCommit{group: "g", offsets: []GroupOffset{{1, 10, "m"}, {2, 20, ""}}}
	_, _, body, err = entryHeader(encodeOffsetCommit(5, want))
	require.NoError(t, err)
	commit, err := decodeOffsetCommit(body)
	require.NoError(t, err)
	require.Equal(t, want, commit)
}

// The bytes of a member's commit, without a sequence and with one, stay as they are.
func TestMemberCommitEntry(t *testing.T) {
	c := offsetCommit{group: "g", member: "m1", epoch: 3, offsets: []GroupOffset{{1, 10, "m"}}}
	behind := "\x02m1" + "\x00\x00\x00\x03" + "\x01g" + "\x00\x00\x00\x00\x00\x00\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x0a" + "\x01m"
	header := func(kind byte) string { return "\x01" + string(kind) + "\x00\x00\x00\x00\x00\x00\x00\x05" }
	for sequence, want := range map[int64]string{
		0:     header(6) + behind,
		0x102: header(8) + "\x00\x00\x00\x00\x00\x00\x01\x02" + behind,
	} {
		c.sequence = sequence
		data := encodeMemberCommit(5, c)
		require.Equal(t, want, string(data))
		kind, _, body, err := entryHeader(data)
		require.NoError(t, err)
		got, err := decodeCommit(kind, body)
		require.NoError(t, err)
		require.Equal(t, c, got)
		for n := range len(body) - len(c.offsets)*18 {
			_, err := decodeCommit(kind, body[:n])
			require.ErrorIs(t, err, errEntryCorrupt, "kind %d, cut to %d bytes", kind, n)
		}
	}
	_, err := decodeNumberedCommit([]byte("\x00\x00\x00\x00\x00\x00\x00\x00" + behind))
	require.ErrorIs(t, err, errEntryCorrupt, "a sequence of 0")
	_, err = decodeNumberedCommit([]byte("\xff\xff\xff\xff\xff\xff\xff\xff" + behind))
	require.ErrorIs(t, err, errEntryCorrupt, "a sequence below 0")
}

func TestEntryCorrupt(t *testing.T) {
	whole := encodeAppend(5, AppendBatch{PartitionID: 1, Data: plain(t, 3, "a")})
	for n := range whole {
		_, _, body, err := entryHeader(whole[:n])
		if err == nil && n > entryHeaderBytes {
			err = eachAppend(body, func(int, uint64, record.Batch) error { return nil })
		}
		if n != entryHeaderBytes { // an append of nothing is well-formed
			require.ErrorIs(t, err, errEntryCorrupt, "cut to %d bytes", n)
		}
	}
}

func TestEntryOfFutureVersion(t *testing.T) {
	data := encodeDrop(5, []uint64{1})
	data[0] = entryVersion + 1
	_, _, _, err := entryHeader(data)
	require.ErrorIs(t, err, errEntryVersion)
	data[0], data[1] = entryVersion, byte(kindNumberedCommit+1)
	_, _, _, err = entryHeader(data)
	require.ErrorIs(t, err, errEntryVersion)
}

func FuzzEntry(f *testing.F) {
	f.Add(encodeAppend(5, AppendBatch{PartitionID: 1, Data: plain(f, 3, "a")}))
	f.Add(encodeUploaded(5, []uploadedEnd{{1, 10}}))
	f.Add(encodeDrop(5, []uint64{1}))
	commit := offsetCommit{group: "g", offsets: []GroupOffset{{1, 10, "m"}}}
	f.Add(encodeOffsetCommit(5, commit))
	commit.member, commit.epoch = "m1", 3
	f.Add(encodeMemberCommit(5, commit))
	commit.sequence = 7
	f.Add(encodeMemberCommit(5, commit))
	seed, err := encodeSeed(5, &metav1.ShardSeed{RecoveryId: "R", Partitions: []*metav1.ShardPartition{{PartitionId: 1, NextOffset: 3, UploadedEndOffset: 3}}, Done: true})
	require.NoError(f, err)
	f.Add(seed)
	group, err := encodeGroup(5, heartbeat("g", "m1", 0, 1, 1))
	require.NoError(f, err)
	f.Add(group)
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, timeMs, body, err := entryHeader(data)
		if err != nil {
			return
		}
		switch kind {
		case kindAppend:
			again := appendHeader(nil, kind, timeMs)
			if eachAppend(body, func(_ int, id uint64, b record.Batch) error {
				again = appendAppendItem(again, AppendBatch{PartitionID: id, Data: b})
				return nil
			}) == nil {
				require.Equal(t, data, again)
			}
		case kindUploaded:
			if ends, err := decodeUploaded(body); err == nil {
				require.Equal(t, data, encodeUploaded(timeMs, ends))
			}
		case kindDrop:
			if ids, err := decodeDrop(body); err == nil {
				require.Equal(t, data, encodeDrop(timeMs, ids))
			}
		case kindOffsetCommit, kindMemberCommit, kindNumberedCommit:
			if c, err := decodeCommit(kind, body); err == nil {
				encoded := encodeMemberCommit(timeMs, c)
				if kind == kindOffsetCommit {
					encoded = encodeOffsetCommit(timeMs, c)
				}
				sameKind, _, body, err := entryHeader(encoded)
				require.NoError(t, err)
				require.Equal(t, kind, sameKind)
				again, err := decodeCommit(kind, body)
				require.NoError(t, err)
				require.Equal(t, c, again)
			}
		case kindGroup:
			if cmd, err := decodeGroup(body); err == nil {
				_, _ = newState().applyGroup(cmd) // whatever it says, it may be refused and must not panic
			}
		case kindSeed:
			if seed, err := decodeSeed(body); err == nil {
				again, err := encodeSeed(timeMs, seed)
				require.NoError(t, err)
				_, _, body, err := entryHeader(again)
				require.NoError(t, err)
				_, err = decodeSeed(body)
				require.NoError(t, err)
				newState().seed(seed)
			}
		}
	})
}
