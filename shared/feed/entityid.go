package feed

import (
	"crypto/sha256"

	"github.com/google/uuid"
)

// EntityID returns the id of the entity that has a key in some table: the key itself if it is a UUID in lower case other
// than zero and of another version than 8, else a UUID of version 8 (RFC 9562, section 5.8) whose other bits are the
// first of SHA-256 over datafeed:FEED:KEY. So no key is the id of another one.
func EntityID(feedName, key string) uuid.UUID {
	if id, err := uuid.Parse(key); err == nil && id != uuid.Nil && id.Version() != 8 && id.String() == key {
		return id
	}
	h := sha256.Sum256([]byte("datafeed:" + feedName + ":" + key))
	id := uuid.UUID(h[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return id
}
