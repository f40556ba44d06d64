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
	More     bool         // there are entities of higher ids
}

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
			found.Entries, err = l.readEntities(ctx, tx, name, after, limit+1, upTo)
			if err == nil {
				err = at.Head.Compaction.of(found.Entries)
			}
			if n := len(found.Entries); n > limit {
				found.Entries, found.More = found.Entries[:limit], true
			}
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

// entitiesSQL goes from one entity to the next through the index, however many versions each has. Of those after
// position $4 it reads each.
const entitiesSQL = `
	with recursive e as (
	  (select entity_id, position from feed_entry where feed = $1 and entity_id > $2 order by entity_id, version limit 1)
	  union all
	  select n.entity_id, n.position from e cross join lateral (
	         select entity_id, position from feed_entry where feed = $1 and entity_id > e.entity_id order by entity_id, version limit 1) n)
	select ` + entryColumns + `, first
	  from (select entity_id as id, position as first from e where position <= $4 limit $3) i cross join lateral (
	       select * from feed_entry where feed = $1 and entity_id = i.id and position <= $4 order by version desc limit 1) l`

func (l *Log) readEntities(ctx context.Context, tx pgx.Tx, name string, after uuid.UUID, limit int, upTo int64) ([]feed.Entry, error) {
	if _, err := tx.Exec(ctx, byIndex); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, entitiesSQL, name, after, limit, upTo)
	if err != nil {
		return nil, err
	}
	var first positions
	entries, err := l.collectEntries(rows, name, &first)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		entries[i].First = first[i]
	}
	slices.SortFunc(entries, func(a, b feed.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return entries, nil
}

// positions are a column that is scanned row by row.
type positions []int64

// ScanInt64 implements [pgtype.Int64Scanner].
func (p *positions) ScanInt64(position pgtype.Int8) error {
	*p = append(*p, position.Int64)
	return nil
}
