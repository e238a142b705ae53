package segment

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"
)

// NameSuffix ends the name of every object with segments.
const NameSuffix = ".seg"

// Name returns the name of an object: CLUSTER/HH/SHARD/ULID.seg, where HH are two hex digits of a hash, which spread
// the names.
func Name(clusterID string, shard uint32, id ulid.ULID) string {
	s := id.String()
	return fmt.Sprintf("%s/%02x/%d/%s%s", clusterID, nameHash(s), shard, s, NameSuffix)
}

// ParseName takes a name apart. Only what Name could have returned is a name.
func ParseName(name string) (clusterID string, shard uint32, id ulid.ULID, err error) {
	fail := func(reason string) (string, uint32, ulid.ULID, error) {
		return "", 0, ulid.ULID{}, fmt.Errorf("object name %q: %s", name, reason)
	}
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[0] == "" || !strings.HasSuffix(parts[3], NameSuffix) {
		return fail("it is not CLUSTER/HH/SHARD/ULID" + NameSuffix)
	}
	n, err := strconv.ParseUint(parts[2], 10, 32)
	if err != nil {
		return fail("the shard is not a number")
	}
	if id, err = ulid.ParseStrict(strings.TrimSuffix(parts[3], NameSuffix)); err != nil {
		return fail("it does not end in a ULID")
	}
	if Name(parts[0], uint32(n), id) != name {
		return fail("its hash or spelling is wrong")
	}
	return parts[0], uint32(n), id, nil
}

func nameHash(id string) byte {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return byte(h.Sum32())
}
