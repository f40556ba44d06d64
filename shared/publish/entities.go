package publish

import (
	"bytes"
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

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

// maxNewer is the number of entities newer than the cursor that one call of Entities looks at.
const maxNewer = 10_000

// Entities returns the newest entry up to the cursor, or up to the head if that is the start, of each of the first limit
// entities whose ids are higher than after. It locates the cursor as [Log.Locate] does, with its errors and with limit as
// size.
func (l *Log) Entities(ctx context.Context, name string, cursor feed.Cursor, after uuid.UUID, limit int) (found *Entities, err error) {
	err = l.withListApplied(ctx, func() error {
		return pgx.BeginTxFunc(ctx, l.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			at, err := l.locate(ctx, tx, name, cursor, int64(limit), nil)
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
	})
	if err != nil {
		return nil, err
	}
	return found, l.lasts(ctx, name, &found.Location)
}

// byIndex makes the plans of a transaction use the index, also if they are made, and kept, while the log is short.
const byIndex = `set local enable_seqscan = off; set local enable_bitmapscan = off`

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

// newestSQL reads the newest entry up to position $4 of each entity: its last one, or else one that it finds by halving.
const newestSQL = `
	select ` + entryColumns + `, first, ` + supersededBy + `
	  from unnest($2::uuid[], $3::bigint[]) as i (id, first) cross join lateral (
	       with recursive search (low, high) as (
	         select case when position <= $4 then version else 1 end, version
	           from (select position, version from feed_entry where feed = $1 and entity_id = id order by version desc limit 1) as last
	         union all
	         select case when position <= $4 then version else low end, case when position <= $4 then high else version - 1 end
	           from search join feed_entry on feed = $1 and entity_id = id and version = (low + high + 1) / 2 where low < high)
	       select e.* from search join feed_entry e on feed = $1 and entity_id = id and version = low where low = high) as e`

// readEntities returns the newest entries of up to limit entities, and the last id that it looked at if there may be
// more.
func (l *Log) readEntities(
	ctx context.Context, tx pgx.Tx, name string, after uuid.UUID, limit int, upTo int64, compaction *Compaction,
) (entries []feed.Entry, last uuid.UUID, err error) {
	if _, err := tx.Exec(ctx, byIndex); err != nil {
		return nil, last, err
	}
	rows, err := tx.Query(ctx, walkSQL, name, after, limit+1, upTo, maxNewer)
	if err != nil {
		return nil, last, err
	}
	var ids []uuid.UUID
	var firsts []int64
	var id uuid.UUID
	var first int64
	looked, err := pgx.ForEachRow(rows, []any{&id, &first}, func() error {
		if first <= upTo {
			ids, firsts = append(ids, id), append(firsts, first)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, last, err
	case len(ids) > limit:
		ids, firsts, last = ids[:limit], firsts[:limit], ids[limit-1]
	case int(looked.RowsAffected())-len(ids) == maxNewer:
		last = id
	}
	if rows, err = tx.Query(ctx, newestSQL, name, ids, firsts, upTo); err != nil {
		return nil, last, err
	}
	var began positions
	var by latest
	if entries, err = l.collectEntries(rows, name, &began, &by); err == nil {
		err = compaction.covers(by)
	}
	if err != nil {
		return nil, last, err
	}
	for i := range entries {
		entries[i].First = began[i]
	}
	slices.SortFunc(entries, func(a, b feed.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return entries, last, nil
}

// positions are a column that is scanned row by row.
type positions []int64

// ScanInt64 implements [pgtype.Int64Scanner].
func (p *positions) ScanInt64(position pgtype.Int8) error {
	*p = append(*p, position.Int64)
	return nil
}
