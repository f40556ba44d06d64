package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A Feed is one that a service copies.
type Feed struct {
	Name     string // "orders": unique in its subscriber
	URL      string // http://localhost:8080/feeds/orders
	Schedule string // when to ask the source, unless another one is set at run time: see ParseSchedule
	// ScheduleSource says in [Status] where Schedule comes from, such as "environment"; empty means "default".
	ScheduleSource string

	// Stream brings new entries sooner than the schedule; nil means none does. The feed stays the truth.
	Stream Stream

	// Table is where Apply keeps one row for each entity that the source has: with the columns id (uuid, unique) and
	// version (bigint). By it the engine knows what is newer than the copy, and in the end of a resync what the source
	// no longer has. No two feeds have the same Table in a database. A feed that gets another one is read again from
	// its start.
	Table string
	// Kept is a condition in SQL, for a service that keeps something of an entity beside its row in Table: it holds for
	// the entity e.id as long as there is such a thing that Apply takes away when the entity is deleted. By it the
	// engine finds what a table that was restored alone says of an erased entity. Empty: there is no such thing.
	Kept string
	// Optional declares that the service is of use without a copy of this feed: it is ready before there is one.
	Optional bool
	// Past declares that Apply looks at Batch.Past: before anything is copied, the source is asked where the feed ends.
	Past bool

	// Check, if it is set, returns what is wrong with an entry by the feed's published contract, or nil. It quotes
	// nothing of the entry. What it refuses is rejected before Apply sees it, by all services alike.
	Check func(feed.Entry) error

	// Columns, which a feed may have instead of Apply, makes Table a pure copy: these of its columns, beside id and
	// version, are filled from the members of the same names of each entity, as Batch.Upsert does. Two pages that have
	// no entity in common are then applied at the same time, and their commits need no flush: what a crash of the
	// database takes of the last second it takes with the cursor, and the source still has it.
	Columns []string

	// Apply brings the service's own tables to the state in the batch, in tx, which is read committed: each entity of
	// it is newer than its row in Table, or everything is made again. It acts on state, not on events: versions may be
	// left out, an entity may be deleted that never was there, and the same batch may come again. It has no effect
	// outside tx, and derives the ids of what it makes, so that running again makes nothing twice.
	Apply func(ctx context.Context, tx pgx.Tx, batch *Batch) error

	// Entries, which a feed may have instead of Table and Apply, gets every version of every entity: page after page,
	// in the order of the feed, each with at least one entry; from is the place where the page starts. Malformed
	// entries are left out and rejected. The cursor moves behind the page when Entries has returned nil means after an
	// error, a crash or a stop in between the same page comes again, or a longer one. Where the source has another
	// history, or somebody asks for it, the pages come again from the first one, which starts at 0. It has to return
	// soon after ctx has ended; db is the service's.
	Entries func(ctx context.Context, db *pgxpool.Pool, from feed.Cursor, page *feed.Page) error
}

// ErrTooMuch is what Apply returns of a batch of several entities that is more than it takes at once: it gets them
// again, on smaller pages.
var ErrTooMuch = errors.New("more than can be applied at once")

// A Batch is a page of a feed reduced to the newest version of each entity on it.
type Batch struct {
	Entities []feed.Entry // in the order of the feed
	Deleted  []uuid.UUID  // entities that the source no longer has
	// Past is where the feed ended when the service first saw it, if the feed declares Past: entries up to that
	// position were there before. It is 0 once the source has another history, if all of the past was copied by then.
	Past int64

	stored map[uuid.UUID]int64 // of the entities, those that have a row in Table, and its version; nil means nobody has looked
}

// NewBatch makes a batch of entries, each the newest of its entity.
func NewBatch(entries []feed.Entry) *Batch {
	b := new(Batch)
	for _, e := range entries {
		if e.Deleted {
			b.Deleted = append(b.Deleted, e.ID)
		} else {
			b.Entities = append(b.Entities, e)
		}
	}
	return b
}

// inOne is how many entities one statement takes: PostgreSQL reads many small arrays faster than a large one, which
// leaves its caches.
const inOne = 100

// Queue queues statements that take all the entities, each as a JSON array of some of them, for
// `jsonb_to_recordset($1)`: for what is more than Upsert does.
func (b *Batch) Queue(to *pgx.Batch, sql string) {
	for some := range slices.Chunk(b.Entities, inOne) {
		to.Queue(sql, (&Batch{Entities: some}).JSON())
	}
}

// JSON returns the entities as one JSON array, for `jsonb_to_recordset($1)`: PostgreSQL reads them faster than Go. See
// Queue.
func (b *Batch) JSON() json.RawMessage {
	size := 2
	for i := range b.Entities {
		size += len(b.Entities[i].Entity) + 1
	}
	array := append(make([]byte, 0, size), '[')
	for i := range b.Entities {
		if i > 0 {
			array = append(array, ',')
		}
		array = append(array, b.Entities[i].Entity...)
	}
	return append(array, ']')
}

// IDs returns the ids of the entities.
func (b *Batch) IDs() []uuid.UUID {
	ids := make([]uuid.UUID, len(b.Entities))
	for i, e := range b.Entities {
		ids[i] = e.ID
	}
	return ids
}
