package logstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// boltFile returns the bytes of a database with a bucket of many pages, one inside a value, values of several pages and
// free pages.
func boltFile(tb testing.TB) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	require.NoError(tb, err)
	for round := range 5 {
		require.NoError(tb, db.Update(func(tx *bolt.Tx) error {
			many, err := tx.CreateBucketIfNotExists([]byte("many"))
			require.NoError(tb, err)
			for i := range 300 {
				key := binary.BigEndian.AppendUint64(nil, uint64(i))
				if round == 4 && i%3 == 0 {
					require.NoError(tb, many.Delete(key))
					continue
				}
				require.NoError(tb, many.Put(key, make([]byte, 50+i%7*30+i/299*10000)))
			}
			few, err := tx.CreateBucketIfNotExists([]byte("few"))
			require.NoError(tb, err)
			return few.Put([]byte("key"), fmt.Appendf(nil, "value %d", round))
		}))
		b, err := os.ReadFile(path)
		require.NoError(tb, err)
		require.NoError(tb, walkBolt(bytes.NewReader(b), int64(len(b))), "round %d", round)
	}
	require.NoError(tb, db.Close())
	b, err := os.ReadFile(path)
	require.NoError(tb, err)
	return b
}

// Wherever bbolt would follow a flipped bit out of its page, the walk has found it.
func TestCheckBoltFindsWhatLeavesThePage(t *testing.T) {
	whole := boltFile(t)
	le := binary.LittleEndian
	meta, err := readBoltMeta(bytes.NewReader(whole))
	require.NoError(t, err)
	page := func(id uint64) []byte { return whole[int64(id)*meta.pageBytes:] }
	at := func(id uint64, offset int) int { return int(int64(id)*meta.pageBytes) + offset }
	root := meta.root // its first element is the bucket "few", its second "many"
	element := func(i int) int { return boltHeaderBytes + i*boltElementBytes }
	value := func(i int) int {
		return element(i) + int(le.Uint32(page(root)[element(i)+4:])+le.Uint32(page(root)[element(i)+8:]))
	}
	inline := value(0) + boltBucketBytes
	many := le.Uint64(page(root)[value(1):])
	require.EqualValues(t, boltBranch, le.Uint16(page(many)[8:]))
	child := le.Uint64(page(many)[element(0)+8:])
	for name, c := range map[string]struct {
		at    int
		value []byte
	}{
		"page's id":                       {at(root, 0), []byte{99}},
		"page's kind":                     {at(root, 8), []byte{0x12}},
		"page's count":                    {at(root, 10), []byte{0xff, 0xff}},
		"pages run over":                  {at(root, 12), []byte{0xff, 0xff}},
		"element's kind":                  {at(root, element(0)), []byte{3}},
		"element's position":              {at(root, element(0)+4), []byte{0, 0, 1}},
		"element's position before it":    {at(root, element(0)+4), []byte{4, 0}},
		"element's length of the key":     {at(root, element(0)+8), []byte{0xff, 0xff, 0xff, 0xff}},
		"element's length of the value":   {at(root, element(0)+12), []byte{0, 0, 1}},
		"bucket of no length":             {at(root, element(0)+12), []byte{8}},
		"bucket inside, without a page":   {at(root, element(0)+12), []byte{20}},
		"bucket inside, kind":             {at(root, inline+8), []byte{boltBranch}},
		"bucket inside, count":            {at(root, inline+10), []byte{3, 1}},
		"bucket inside, position":         {at(root, inline+boltHeaderBytes+4), []byte{0, 8}},
		"bucket inside, length":           {at(root, inline+boltHeaderBytes+12), []byte{0, 8}},
		"bucket inside a bucket inside":   {at(root, inline+boltHeaderBytes), []byte{1}},
		"bucket's root behind the end":    {at(root, value(1)), []byte{0xff, 0xff, 1}},
		"bucket's root is a meta page":    {at(root, value(1)), []byte{1}},
		"bucket's root is its own page":   {at(root, value(1)), []byte{byte(root)}},
		"bucket's root became one inside": {at(root, value(1)), make([]byte, 8)},
		"branch without a child":          {at(many, 10), []byte{0, 0}},
		"branch's count":                  {at(many, 10), []byte{0, 0x10}},
		"branch's child":                  {at(many, element(0)+8), []byte{0xff, 0xff}},
		"branch's position":               {at(many, element(0)+4), []byte{0xff, 0xff}},
		"leaf's kind":                     {at(child, 8), []byte{boltFreelist}},
		"leaf's position":                 {at(child, element(0)+4), []byte{0xff, 0xff}},
		"free pages' kind":                {at(meta.freelist, 8), []byte{boltLeaf}},
		"free pages' count":               {at(meta.freelist, 10), []byte{0xfe, 0xff}},
		"free pages' count of many":       {at(meta.freelist, 10), []byte{0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff}},
		"free page that is used":          {at(meta.freelist, boltHeaderBytes), []byte{byte(root)}},
		"free page behind the end":        {at(meta.freelist, boltHeaderBytes), []byte{0xff, 0xff, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(whole)
			copy(b[c.at:], c.value)
			require.NotEqual(t, whole, b)
			require.Error(t, walkBolt(bytes.NewReader(b), int64(len(b))))
		})
	}
	t.Run("cut", func(t *testing.T) {
		for _, n := range []int64{1, 79, 5000, 3 * meta.pageBytes} {
			require.Error(t, walkBolt(bytes.NewReader(whole[:n]), n), "%d bytes", n)
		}
	})
	t.Run("meta pages", func(t *testing.T) {
		b := bytes.Clone(whole)
		for n := range 2 { // bbolt does with one, and so with what a torn write of the other left
			require.NoError(t, walkBolt(bytes.NewReader(b), int64(len(b))))
			b[n*int(meta.pageBytes)+boltHeaderBytes+40] ^= 1
		}
		require.Error(t, walkBolt(bytes.NewReader(b), int64(len(b))))
	})
}

// Whatever is changed in a file, the walk ends, and what it lets pass bbolt can read to the end.
func FuzzCheckBolt(f *testing.F) {
	whole := boltFile(f)
	meta, err := readBoltMeta(bytes.NewReader(whole))
	require.NoError(f, err)
	for _, at := range []int64{8, 10, 12, 16, 20, 24, 28, 32, 60, 100, 4000} {
		f.Add(binary.LittleEndian.AppendUint32(nil, uint32(int64(meta.root)*meta.pageBytes+at)|1<<24))
		f.Add(binary.LittleEndian.AppendUint32(nil, uint32(int64(meta.freelist)*meta.pageBytes+at)|1<<24))
	}
	f.Fuzz(func(t *testing.T, changes []byte) {
		b := bytes.Clone(whole)
		for ; len(changes) >= 4; changes = changes[4:] { // three bytes say where, one what
			c := binary.LittleEndian.Uint32(changes)
			b[int(c&0xffffff)%len(b)] ^= byte(c >> 24)
		}
		if walkBolt(bytes.NewReader(b), int64(len(b))) != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "db")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
		require.NoError(t, err)
		defer func() { require.NoError(t, db.Close()) }()
		sum := 0
		require.NoError(t, db.View(func(tx *bolt.Tx) error {
			return tx.ForEach(func(_ []byte, bucket *bolt.Bucket) error {
				if bucket == nil { // not found where its changed name would be
					return nil
				}
				return bucket.ForEach(func(k, v []byte) error { sum += bytes.Count(k, []byte{1}) + bytes.Count(v, []byte{1}); return nil })
			})
		}))
	})
}
