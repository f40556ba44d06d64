package publish

import (
	"bytes"
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// Entities are the newest entries that some entities had up to a cursor.
type Entities struct {
	Location              // of the cursor that was asked for
	Entries  []feed.Entry // in the order of the entities' ids, tombstones included, each with First; none if the cursor is not known
	// Last is the highest id that was looked at, if there may be entities of higher ids; else it is uuid.Nil. Entities
	// that are newer than the cursor have no entry, and there may be very many of them, so there can be fewer entries
	// than were asked for.
	Last uuid.UUID
}

// A beginner is a pool or a connection in which a transaction begins.
type beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// maxNewer is the number of entities newer than the cursor that one call of Entities looks at.
const maxNewer = 10_000

// Entities returns the newest entry up to the cursor, or up to the head if that is the start, of each of the first limit
// entities whose ids are higher than after. It locates the cursor as [Log.Locate] does, with its errors and with limit as
// size, and returns [ErrTooLarge] if the entries are that.
func (l *Log) Entities(ctx context.Context, name string, cursor feed.Cursor, after uuid.UUID, limit int) (found *Entities, err error) {
	read := func(ctx context.Context, db beginner, locate func(tx pgx.Tx) (*Location, error)) error {
		return pgx.BeginTxFunc(ctx, db, pgx.TxOptions{BeginQuery: `begin isolation level repeatable read read only; ` + byIndex}, func(tx pgx.Tx) error {
			at, err := locate(tx)
			if err != nil {
				return err
			}
			found = &Entities{Location: *at}
			if !at.Known {
				return nil
			}
			upTo := cursor.Position
			if cursor.IsStart() {
				upTo = at.Head.Position
			}
			found.Entries, found.Last, err = l.readEntities(ctx, tx, name, after, limit, upTo, &at.Head.Compaction)
			return err
		})
	}
	err = l.readAny(ctx, name, func(ctx context.Context, conn *pgxpool.Conn, head Head) error {
		return read(ctx, conn, func(tx pgx.Tx) (*Location, error) { return l.locateAt(ctx, tx, name, head, cursor, true, int64(limit)) })
	}, func() error {
		err := l.withListApplied(ctx, func() error {
			return read(ctx, l.pool, func(tx pgx.Tx) (*Location, error) { return l.locate(ctx, tx, name, cursor, int64(limit), nil) })
		})
		if err == nil {
			err = l.lasts(ctx, name, &found.Location)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// byIndex makes the plans of a transaction use the index, also if they are made, and kept, while the log is short. No plan
// is compiled, which would take longer than the page.
const byIndex = `set local enable_seqscan = off; set local enable_bitmapscan = off; set local jit = off`

// nearSQL reads the next $3 entries, in the order of their entities. Of a feed whose entities have one version that is all
// of a page, twenty times as fast as by walkSQL.
const nearSQL = `
	select entity_id, position from feed_entry where feed = $1 and entity_id > $2 order by entity_id, version limit $3`

// firstSQL reads the first entries of the next $3 entities. It steps over the later versions within the index, which takes
// a third of the time of walkSQL where an entity has twenty, but more and more with each.
const firstSQL = `
	select entity_id, position from feed_entry where feed = $1 and entity_id > $2 and version = 1 order by entity_id limit $3`

// fewVersions is up to how many versions an entity has for firstSQL to take less time than walkSQL.
const fewVersions = 50

// walkSQL goes from one entity to the next through the index, however many versions each has, until $3 of them began at
// or before position $4, or $5 did not.
const walkSQL = `
	with recursive e as (
	  (select entity_id, position, (position <= $4)::int as old, (position > $4)::int as newer
	     from feed_entry where feed = $1 and entity_id > $2 order by entity_id, version limit 1)
	  union all
	  select n.entity_id, n.position, old + (n.position <= $4)::int, newer + (n.position > $4)::int
	    from e cross join lateral (
	         select entity_id, position from feed_entry where feed = $1 and entity_id > e.entity_id order by entity_id, version limit 1) n
	   where old < $3 and newer < $5)
	select entity_id, position from e`

// lastSQL reads the last entry of each entity, unless it is after position $3.
const lastSQL = `
	select ` + entryColumns + `, ` + supersededBy + `
	  from unnest($2::uuid[]) as id cross join lateral (
	       select * from feed_entry where feed = $1 and entity_id = id order by version desc limit 1) as e
	 where position <= $3`

// newestSQL reads the newest entry up to position $3 of each entity, which it finds by halving.
const newestSQL = `
	select ` + entryColumns + `, ` + supersededBy + `
	  from unnest($2::uuid[]) as id cross join lateral (
	       with recursive search (low, high) as (
	         (select 1::bigint, version from feed_entry where feed = $1 and entity_id = id order by version desc limit 1)
	         union all
	         select case when position <= $3 then version else low end, case when position <= $3 then high else version - 1 end
	           from search cross join lateral (
	                select position, version from feed_entry where feed = $1 and entity_id = id and version = (low + high + 1) / 2 limit 1) as middle
	          where low < high)
	       select e.* from search join feed_entry e on feed = $1 and entity_id = id and version = low where low = high) as e`

// readEntities returns the newest entries of up to limit entities, and the last id that it looked at if there may be
// more.
func (l *Log) readEntities(
	ctx context.Context, tx pgx.Tx, name string, after uuid.UUID, limit int, upTo int64, compaction *Compaction,
) (entries []feed.Entry, last uuid.UUID, err error) {
	began, newer, at := map[uuid.UUID]int64{}, 0, after // at is the last entity that was looked at
	var ids []uuid.UUID
	look := func(sql string, size int, bounds ...any) (more bool, err error) {
		rows, err := tx.Query(ctx, sql, append([]any{name, at, size}, bounds...)...)
		if err != nil {
			return false, err
		}
		var id uuid.UUID
		var first int64
		tag, err := pgx.ForEachRow(rows, []any{&id, &first}, func() error {
			switch {
			case id == at: // a later version
			case first <= upTo:
				ids, began[id] = append(ids, id), first
			default:
				newer++
			}
			at = id
			return nil
		})
		return int(tag.RowsAffected()) == size, err
	}
	more, err := look(nearSQL, limit+1)
	switch size := limit + 1 - len(ids); {
	case err != nil || !more || size <= 0:
	case (len(ids)+newer)*fewVersions > limit:
		for ; err == nil && more && len(ids) <= limit && newer < maxNewer; size = min(2*size, maxNewer-newer) {
			more, err = look(firstSQL, size)
		}
	default:
		_, err = look(walkSQL, size, upTo, maxNewer-newer)
	}
	switch {
	case err != nil:
		return nil, last, err
	case len(ids) > limit:
		ids, last = ids[:limit], ids[limit-1]
	case newer == maxNewer:
		last = at
	}
	room := MaxPage
	for _, sql := range []string{lastSQL, newestSQL} {
		if len(ids) == 0 {
			break
		}
		rows, err := tx.Query(ctx, sql, name, ids, upTo)
		if err != nil {
			return nil, last, err
		}
		var by latest
		found, err := l.collectEntries(rows, name, &room, &by)
		if err == nil {
			err = compaction.covers(by)
		}
		if err != nil {
			return nil, last, err
		}
		for i := range found {
			found[i].First = began[found[i].ID]
			delete(began, found[i].ID)
		}
		entries = append(entries, found...)
		ids = slices.DeleteFunc(ids, func(id uuid.UUID) bool { return began[id] == 0 })
	}
	slices.SortFunc(entries, func(a, b feed.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return entries, last, nil
}
