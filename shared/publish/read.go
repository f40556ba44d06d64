package publish

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A Place is the end of an entry in the log.
type Place struct {
	Digest  feed.Digest
	Updated time.Time // of the entry
}

// A Location is the place of a cursor in a feed, all of one moment.
type Location struct {
	Head   Head
	Known  bool            // the feed contains the cursor
	Places map[int64]Place // by position
}

// Locate finds the cursor. Places has, as far as the feed contains them, the cursor's position, the given positions,
// and the last and the third last multiple of size. Locate returns nothing that a failover could take away. It returns
// [ErrBehind] if a standby may not have the cursor yet, and [ErrUnapplied] while the database has something that is
// erased. If a standby of [Options] answers, the head is the one that this process knows.
func (l *Log) Locate(ctx context.Context, name string, cursor feed.Cursor, size int64, positions ...int64) (at *Location, err error) {
	err = l.readAny(ctx, name, func(ctx context.Context, conn *pgxpool.Conn, head Head) (err error) {
		at, err = l.locateAt(ctx, conn, name, head, cursor, false, size, positions...)
		return err
	}, func() (err error) {
		at, err = l.LocateAtPrimary(ctx, name, cursor, size, positions...)
		return err
	})
	return at, err
}

// LocateAtPrimary is [Log.Locate] without standbys.
func (l *Log) LocateAtPrimary(ctx context.Context, name string, cursor feed.Cursor, size int64, positions ...int64) (at *Location, err error) {
	err = l.withListApplied(ctx, func() (err error) {
		at, err = l.locate(ctx, l.pool, name, cursor, size, positions)
		return err
	})
	if err != nil {
		return nil, err
	}
	return at, l.lasts(ctx, name, at)
}

// lasts returns nil if a failover takes away nothing of what is at the location, or, if the cursor is not known, of what
// contradicts it.
func (l *Log) lasts(ctx context.Context, name string, at *Location) error {
	if !at.Known { // a primary that was deposed has another history than the one that its readers follow now
		ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
		defer cancel()
		return l.Ready(ctx)
	}
	// If another process appended, no later answer may know less than this one.
	return l.durable(ctx, name, at.Head.Position)
}

func (l *Log) locate(ctx context.Context, db querier, name string, cursor feed.Cursor, size int64, positions []int64) (*Location, error) {
	at, recovering, err := l.places(ctx, db, name, cursor, size, positions)
	if err != nil {
		return nil, err
	}
	place, known := at.Places[cursor.Position]
	at.Known = cursor.Position == 0 || known && cursor.Position <= at.Head.Position && cursor.Matches(place.Digest)
	if t := l.Remembered(name); recovering && (!at.Known || t != nil && at.Head.Position < t.Position) {
		return nil, ErrBehind
	}
	return at, nil
}

// places returns a location without Known, and whether the database is a standby. It uses one statement, which sees one
// snapshot of the database.
func (l *Log) places(
	ctx context.Context, db querier, name string, cursor feed.Cursor, size int64, positions []int64,
) (at *Location, recovering bool, err error) {
	rows, err := db.Query(ctx, `
		select f.position, f.digest, f.erasures, f.compaction, f.listed, f.is_whole, pg_is_in_recovery(), e.position, e.digest, e.updated
		  from feed_head f left join lateral (
		       select position, digest, updated from feed_entry
		        where feed = $1 and position = any ($3::bigint[] || array[$4, f.position / $2 * $2, (f.position / $2 - 2) * $2])) e on true
		 where f.name = $1`, name, size, positions, cursor.Position)
	if err != nil {
		return nil, false, err
	}
	head, listed, recovering, places, err := collectPlaces(rows)
	switch {
	case err != nil:
		return nil, false, err
	case !l.follows(listed):
		return nil, false, ErrUnapplied
	}
	return &Location{Head: *head, Places: places}, recovering, nil
}

func collectPlaces(rows pgx.Rows) (head *Head, listed int64, recovering bool, places map[int64]Place, err error) {
	places = map[int64]Place{}
	var end, erasures, position *int64
	var whole bool
	var endDigest, digest []byte
	var compaction Compaction
	var updated *time.Time
	_, err = pgx.ForEachRow(rows, []any{&end, &endDigest, &erasures, &compaction, &listed, &whole, &recovering, &position, &digest, &updated}, func() error {
		if !whole {
			return fmt.Errorf("%w Its log lacks an entry that it had: restore all tables of one dump", ErrIncomplete)
		}
		head = &Head{*end, feed.Digest(endDigest), *erasures, compaction}
		if position != nil {
			places[*position] = Place{feed.Digest(digest), updated.UTC()}
		}
		return nil
	})
	if err == nil && head == nil {
		err = fmt.Errorf("%w There is no such feed in it", ErrIncomplete)
	}
	return head, listed, recovering, places, err
}

// Entries returns the entries after the position from, up to the cursor to, oldest first, and what was compacted when
// they were read. They are at most [feed.MaxPageSize]. It returns [ErrTooLarge] if they are
// that, and [ErrChanged] if the feed has another entry at to, or another number of erasures than given.
func (l *Log) Entries(
	ctx context.Context, name string, from int64, to feed.Cursor, erasures int64,
) (entries []feed.Entry, compaction Compaction, err error) {
	read := func(ctx context.Context, db querier) (err error) {
		entries, err = l.readEntries(ctx, db, name, from, to, erasures, &compaction)
		return err
	}
	err = l.readAny(ctx, name, func(ctx context.Context, conn *pgxpool.Conn, head Head) error {
		if _, err := l.locateAt(ctx, conn, name, head, to, false, 1); err != nil {
			return err
		}
		err := read(ctx, conn)
		if err == nil && compaction != head.Compaction { // since it was located
			err = ErrChanged
		}
		return err
	}, func() error { return l.withListApplied(ctx, func() error { return read(ctx, l.pool) }) })
	return entries, compaction, err
}

func (l *Log) readEntries(
	ctx context.Context, db querier, name string, from int64, to feed.Cursor, erasures int64, compaction *Compaction,
) ([]feed.Entry, error) {
	// PostgreSQL keeps a plan only if it guesses the same rows for any values: it looks into no (select $2), and the limit
	// is in the text. It would make one for each page of a long log, which takes longer than to read the page.
	rows, err := db.Query(ctx, `
		select `+entryColumns+`, (select erasures from feed where name = $1), (select compaction from feed_head where name = $1), `+supersededBy+`
		  from feed_entry as e where feed = $1 and position > (select $2::bigint) and position <= (select $3::bigint)
		 order by position limit `+strconv.Itoa(feed.MaxPageSize), name, from, to.Position)
	if err != nil {
		return nil, err
	}
	var found *int64
	var by latest
	room := MaxPage
	entries, err := l.collectEntries(rows, name, &room, &found, compaction, &by)
	if err == nil {
		err = compaction.covers(by)
	}
	if err == nil && int64(len(entries)) != to.Position-from {
		err = fmt.Errorf("the log has %d of them", len(entries))
	}
	if n := len(entries); err == nil && n > 0 && (found == nil || *found != erasures || entries[n-1].Cursor != to) {
		err = ErrChanged
	}
	return entries, err
}

const entryColumns = `position, kind, entity_id, version, updated, payload, digest, salt is null, salt = '' is true`

// collectEntries reads rows of entryColumns and more columns, which it scans row by row. It takes the size of their
// payloads from room, and stops with [ErrTooLarge] where there is none left. It returns an entry whose
// payload is erased as the tombstone that erased it. A payload that is no JSON, which only somebody who writes to the
// table by hand can store, becomes null: readers put it aside, and get the rest of its page.
func (l *Log) collectEntries(rows pgx.Rows, name string, room *int, more ...any) (entries []feed.Entry, err error) {
	var e feed.Entry
	var kind string
	var id uuid.UUID
	var payload, digest []byte
	var found []uuid.UUID
	columns := []any{&e.Position, &kind, &id, &e.Version, &e.Updated, &payload, &digest, &e.Erased, &e.Superseded}
	_, err = pgx.ForEachRow(rows, append(columns, more...), func() error {
		if *room -= len(payload); *room < 0 {
			return ErrTooLarge
		}
		e.Cursor = feed.At(e.Position, feed.Digest(digest))
		e.ID, e.Updated, e.Entity, e.Deleted = id, e.Updated.UTC(), payload, !e.Superseded && (kind == kindDelete || payload == nil)
		if payload != nil && !e.Deleted {
			found = append(found, id)
			if !jsontext.Value(payload).IsValid(asWritten) {
				l.logger.Error("an entry is no JSON, and is served as null", "feed", name, "position", e.Position)
				e.Entity = []byte("null")
			}
		}
		entries = append(entries, e)
		return nil
	})
	if err == nil {
		err = l.notErased(name, found...)
	}
	return entries, err
}

// maxVersionBytes is the size of the payloads after which Versions leaves out the older ones.
const maxVersionBytes = 4 << 20

// Versions returns at most limit entries of one entity, newest first, or none, and fewer if their payloads have many
// megabytes. It returns nothing that a failover could take away.
func (l *Log) Versions(ctx context.Context, name string, id uuid.UUID, limit int) (entries []feed.Entry, err error) {
	read := func(ctx context.Context, db querier) (err error) {
		entries, err = l.readVersions(ctx, db, name, id, limit)
		return err
	}
	err = l.readAny(ctx, name, func(ctx context.Context, conn *pgxpool.Conn, head Head) error {
		if _, err := l.locateAt(ctx, conn, name, head, feed.Cursor{}, false, 1); err != nil {
			return err
		}
		if err := read(ctx, conn); err != nil {
			return err
		}
		if len(entries) == 0 || entries[0].Position > head.Position {
			return errNotThere
		}
		return nil
	}, func() error {
		err := l.withListApplied(ctx, func() error { return read(ctx, l.pool) })
		if err == nil && len(entries) > 0 {
			err = l.durable(ctx, name, entries[0].Position)
		} else if err == nil { // it may have yet to be restored
			_, err = l.look(ctx, l.pool)
		}
		return err
	})
	return entries, err
}

func (l *Log) readVersions(ctx context.Context, db querier, name string, id uuid.UUID, limit int) ([]feed.Entry, error) {
	rows, err := db.Query(ctx, `select `+entryColumns+`, (select listed from feed where name = $1)
		  from (select *, coalesce(sum(octet_length(payload)) over (order by version desc rows between unbounded preceding and 1 preceding), 0) as newer
		          from feed_entry where feed = $1 and entity_id = $2 order by version desc limit $3) as e
		 where newer < $4 order by version desc`, name, id, limit, maxVersionBytes)
	if err != nil {
		return nil, err
	}
	var listed *int64
	room := math.MaxInt // bounded by the statement
	entries, err := l.collectEntries(rows, name, &room, &listed)
	switch {
	case err != nil || len(entries) == 0:
	case listed == nil:
		err = ErrIncomplete
	case !l.follows(*listed):
		err = ErrUnapplied
	}
	return entries, err
}
