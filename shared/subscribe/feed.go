package subscribe

import (
	"cmp"
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
	Name string // "orders": unique in its subscriber, with Source
	// Source names one of several sources of the feed, such as a region or a shard: "eu". They have the same Name, Table
	// and Apply, and each has a subscription of its own, to "orders@eu". Table then has what all of them publish. An
	// entity is of the source that was the first to publish it; what another one says of it is rejected. The URL of a
	// source may change, its name must not. Empty means that the feed has one source, which needs no name. Sources of
	// one feed are applied at the same time, so Apply must cope with that, as with two feeds.
	Source   string
	URL      string // http://localhost:8080/feeds/orders
	Schedule string // when to ask the source, unless another one is set at run time: see ParseSchedule
	// ScheduleSource says in [Status] where Schedule comes from, such as "environment"; empty means "default".
	ScheduleSource string

	// Stream brings new entries sooner than the schedule; nil means none does. The feed stays the truth.
	Stream Stream

	// Table names the table in which Apply keeps one row for each entity that the source has, with the columns id
	// (uuid, unique) and version (bigint). It may begin with a schema, as in "sales.purchase". The engine reads it to find out which entries are newer than the copy and,
	// at the end of a resync, which entities the source no longer has. Two feeds of a database must not share a Table.
	// If the Table of a feed changes, the feed is read again from its start, and a process that still has another Table
	// lets the later one copy, and copies nothing any more. The old table stays: drop it, since erasures do not reach it.
	Table string
	// Resync is a reason to read the feed again from its start, such as that Table was emptied. It counts when the
	// subscriber is made. Empty means that there is none.
	Resync string
	// Kept is an SQL condition on an entity e.id, for a service that keeps something about an entity outside Table. It
	// must be true as long as the service has something that Apply removes when the entity is deleted. With it the
	// engine finds what a table that was restored alone still says about an erased entity. Empty means that nothing is
	// kept outside Table.
	Kept string
	// Optional declares that the service is of use without a copy of this feed: it is ready before there is one.
	Optional bool
	// Past declares that Apply looks at Batch.Past: before anything is copied, the source is asked where the feed ends.
	Past bool

	// Check, if set, returns an error for an entry that breaks the feed's published contract. The error must not quote
	// the entry. An entry that Check refuses is rejected before Apply sees it.
	Check func(feed.Entry) error

	// Needs names the members of entities that the copy needs, such as "status" and "lines[].model". While the JSON Schema
	// of the source lacks one, the copy stays before the next page, and its status says why. It goes on by itself when the
	// schema has all of them. A source that has no schema is not asked for one.
	Needs []string

	// Complete, if set, returns an error for an entity that lacks something which the copy needs and the source has yet
	// to publish, such as a member. The error must not quote the entity. The copy then stays before the page of that
	// entry, and its status says why. If there are more pages, a resync reads them. The copy goes on, by itself, when
	// the newest version of each entity is complete or deleted.
	Complete func(feed.Entry) error

	// Columns without Apply makes Table a pure copy. Like Batch.Upsert, the engine fills these columns, in addition to
	// id and version, from the members of the same names. Pages without a common entity are applied at the same time,
	// and commits do not wait for the disk: if a crash of the database loses rows, it loses the cursor with them, and
	// the entries are copied again. With Apply, Columns names what Apply fills.
	//
	// If a column is new, a resync fills it. While processes of the service have different columns, only those copy that
	// have the columns of the last one that was started, as with another Table.
	Columns []string

	// Apply brings the service's own tables to the state in the batch, in tx, which is read committed. Each entity of
	// the batch is newer than its row in Table, unless a resync applies everything again. Apply acts on state, not on
	// events: versions may be missing, an entity may be deleted that never existed here, and a batch may come again. It
	// must have no effect outside tx, and must derive the ids of the rows that it makes, so that running it again makes
	// nothing twice.
	Apply func(ctx context.Context, tx pgx.Tx, batch *Batch) error

	// Entries, which a feed may have instead of Table and Apply, receives every version of every entity, page after
	// page in the order of the feed. Each page has at least one entry; from is the cursor at which it starts. Of a
	// superseded entry there is only that it was: it is no deletion. Malformed entries are left out and rejected. The
	// cursor moves past a page once Entries has returned nil. After an error, a crash or a stop before that, the same
	// page comes again, or a longer one. A resync passes all pages again, from the first one, which starts at 0.
	// Entries must return soon after ctx has ended; db is the service's pool.
	Entries func(ctx context.Context, db *pgxpool.Pool, from feed.Cursor, page *feed.Page) error
}

// ErrTooMuch is returned by Apply for a batch of several entities that is more than it can apply at once. The engine
// then fetches smaller pages.
var ErrTooMuch = errors.New("more than can be applied at once")

// A Batch is a page of a feed reduced to the newest version of each entity on it.
type Batch struct {
	Entities []feed.Entry // in the order of the feed
	Deleted  []uuid.UUID  // entities that the source no longer has
	// Past is the position at which the feed ended when the service first saw it, if the feed declares Past: see IsPast,
	// which tells what existed before. It becomes 0 when the source gets another history, if all of the past was copied
	// by then.
	Past int64

	stored map[uuid.UUID]int64 // versions of the rows that Table has for the entities; nil means not looked up
}

// IsPast reports whether the entity of the entry existed when the feed ended at Past. An entry of a replay counts as the
// first of its entity: the copy has an entity that existed before.
func (b *Batch) IsPast(e feed.Entry) bool { return cmp.Or(e.First, e.Position) <= b.Past }

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

// Queue queues sql once for each part of the entities, which it passes as a JSON array, for `jsonb_to_recordset($1)`.
// Use it for statements that do more than Upsert.
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
