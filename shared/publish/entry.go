package publish

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// MaxPayload is the size limit of an entry's payload in bytes.
const MaxPayload = 256 << 10

// MaxPage is how many bytes the payloads of a page may have together: those of MaxPageEntries entries, whatever their
// sizes. The view of the newest entries has up to 199 of them, so it always fits, and is within the limit of a reader's
// page (feedclient.MaxBody). Readers of other pages can ask for shorter ones.
const (
	MaxPage        = MaxPageEntries * MaxPayload
	MaxPageEntries = 200
)

// MaxDepth is the limit of the nesting of objects and arrays in a payload, itself included. A page adds four levels,
// and JSON libraries have limits from 1000 levels on.
const MaxDepth = 500

// maxYear is the last year that RFC 3339 can express.
const maxYear = 9999

// An Entry is one version of one entity, to be appended to a feed. An entry that breaks a rule is refused by an
// [EntryError].
type Entry struct {
	ID      uuid.UUID // not zero
	Version int64     // 1, 2, 3 ... of this entity, tombstones included; 0 means the next one
	Updated time.Time // microseconds count; must grow strictly with Version; years 1 to 9999; zero means now, or later where Version needs it
	Payload []byte    // the entity as a JSON object, not to be changed afterwards; nil makes the entry a tombstone: the entity is deleted
}

// Kinds of entries, as in the log and in its digest.
const (
	kindPut    = "put"
	kindDelete = "delete"
)

// A record is an entry with all that does not depend on its position.
type record struct {
	Entry
	kind  string
	erase bool // a tombstone that also erases the entity's earlier entries
	salt  []byte
	hash  [32]byte // sha256(salt || payload): the digest covers this hash, so that payload and salt can be erased
}

func newRecord(e Entry) record {
	e.Updated = e.Updated.UTC().Truncate(time.Microsecond)
	r := record{Entry: e, kind: kindPut, salt: make([]byte, 16)}
	_, _ = rand.Read(r.salt) // never fails
	if e.Payload == nil {
		r.kind = kindDelete
	}
	r.hash = saltedHash(r.salt, e.Payload)
	return r
}

func saltedHash(salt, payload []byte) (sum [32]byte) {
	h := sha256.New()
	h.Write(salt)
	h.Write(payload)
	h.Sum(sum[:0])
	return sum
}

// digest returns the running digest after r: sha256 over the digest before it, kind, entity id, version, time and
// payload hash, each of a fixed width, numbers big-endian, time in microseconds since 1970.
func (r *record) digest(before feed.Digest) feed.Digest {
	b := make([]byte, 0, 32+1+16+8+8+32)
	b = append(b, before[:]...)
	b = append(b, r.kind[0])
	b = append(b, r.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Version))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Updated.UnixMicro()))
	b = append(b, r.hash[:]...)
	return sha256.Sum256(b)
}
