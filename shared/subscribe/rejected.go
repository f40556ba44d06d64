package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A RejectedEntry is an entry that could not be applied while others were: the newest such version of its entity. If a
// version came after it that is malformed or breaks the contract, the last of those is rejected beside it.
type RejectedEntry struct {
	EntityID   uuid.UUID       `json:"entity_id"`
	Version    int64           `json:"version"`
	Position   int64           `json:"position"` // 0 if it was missing at a resync
	Updated    *time.Time      `json:"updated"`  // null if not known, after a resync, or before the year 2
	Deleted    bool            `json:"deleted"`
	Entity     json.RawMessage `json:"entity"` // null if deleted; [] if nothing is kept: the item does not say whose it is, or names whom it must not
	Reason     string          `json:"reason"`
	RejectedAt time.Time       `json:"rejected_at"` // last
	Attempts   int             `json:"attempts"`
}

// rejectedBytes is the size of the entities after which no other one is returned.
const rejectedBytes = 4 << 20

// rejectedEntries returns at most limit rejected entries, in the order of the feed, after the given one, and fewer if
// they are large.
func (q *quarantine) rejectedEntries(ctx context.Context, position int64, entity uuid.UUID, limit int) ([]RejectedEntry, error) {
	return q.readRejected(ctx, `(position, entity_id) in (
		select position, entity_id from (
		       select position, entity_id, sum(coalesce(octet_length(entity), 0)) over (order by position, entity_id rows between unbounded preceding and 1 preceding) as before
		         from rejected_entry where service = $1 and feed = $2 and (position, entity_id) > ($3, $4) order by position, entity_id limit $5) as sized
		 where coalesce(before, 0) < $6) order by position, entity_id`, position, entity, limit, rejectedBytes)
}

// rejectedEntry returns the rejected entries of an entity: two at most.
func (q *quarantine) rejectedEntry(ctx context.Context, entity uuid.UUID) ([]RejectedEntry, error) {
	return q.readRejected(ctx, `entity_id = $3 order by position`, entity)
}

func (q *quarantine) readRejected(ctx context.Context, condition string, args ...any) ([]RejectedEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := q.pool.Query(ctx, `
		select entity_id, version, position, updated, entity, reason, rejected_at, attempts from rejected_entry
		 where service = $1 and feed = $2 and `+condition, append([]any{q.service, q.Name}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e RejectedEntry, err error) {
		var updated time.Time
		var entity []byte
		err = row.Scan(&e.EntityID, &e.Version, &e.Position, &updated, &entity, &e.Reason, &e.RejectedAt, &e.Attempts)
		if updated = updated.UTC(); updated.Year() > 1 {
			e.Updated = &updated
		}
		e.Entity, e.Deleted, e.RejectedAt = entity, entity == nil, e.RejectedAt.UTC().Truncate(time.Millisecond)
		return e, err
	})
}

// A RetryError means that an entry was refused again. Its text may quote the entry.
type RetryError struct{ Reason string }

func (e *RetryError) Error() string { return "it was refused again: " + e.Reason }

const lockNotAvailable = "55P03"

// retry applies the rejected entries of an entity again, and returns how many were applied, and those that are refused
// again. They are still newer than the copy's row, since a later good version would have cleared them.
func (q *quarantine) retry(ctx context.Context, id uuid.UUID) (applied int, refused []rejection, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	if applied, refused, err = q.reapply(ctx, []uuid.UUID{id}, readTimeout/2); err != nil {
		return 0, nil, notNow(err, "apply the rejected entry of %s again", id)
	}
	if applied+len(refused) == 0 {
		return 0, nil, ErrNotRejected
	}
	return applied, refused, nil
}

// notNow returns ErrApplying if the row of the subscription was locked, and else err with what was to be done.
func notNow(err error, what string, args ...any) error {
	if pgErr, _ := errors.AsType[*pgconn.PgError](err); pgErr != nil && pgErr.Code == lockNotAvailable {
		return ErrApplying
	}
	return &pageError{what: fmt.Sprintf(what, args...), err: err}
}

// lock waits a second for the row of the subscription. A page that is being applied locks it for a moment, the end of a
// resync for longer.
func (q *quarantine) lock(first *pgx.Batch) {
	first.Queue(`set local lock_timeout = '1s'`)
	first.Queue(`select from subscription where service = $1 and feed = $2 for no key update`, q.service, q.Name)
	first.Queue(`set local lock_timeout to default`)
}

// drop forgets a rejected version of an entity, or all if version is 0. If its row is of a lost history, and of a later
// version, which the next ones would not replace, the entity is deleted.
func (q *quarantine) drop(ctx context.Context, id uuid.UUID, version int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	var outdated bool
	if q.Apply != nil {
		err := q.pool.QueryRow(ctx, `
			select coalesce((select max(version) from `+q.table()+` where id = $3) > max(version), false) from rejected_entry
			 where service = $1 and feed = $2 and entity_id = $3 and $4::bigint in (0, version)`, q.service, q.Name, id, version).Scan(&outdated)
		if err != nil {
			return fmt.Errorf("look for the row of %s: %w", id, err)
		}
	}
	lock := func(*pgx.Batch) {} // else a drop waits for nothing, as in the end of a resync
	if outdated {
		lock = q.lock
	}
	var dropped *int64
	var refused []rejection
	err := q.inTx(ctx, lock, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			with dropped as (delete from rejected_entry where service = $1 and feed = $2 and entity_id = $3 and $4::bigint in (0, version) returning version)
			select max(version) from dropped`, q.service, q.Name, id, version).Scan(&dropped)
		if err != nil || dropped == nil || !outdated {
			return err
		}
		refused, err = q.applyCarefully(ctx, tx, []feed.Entry{{ID: id, Version: *dropped, Deleted: true}}, readTimeout/2)
		if err == nil && len(refused) > 0 {
			err = &RetryError{whole(refused[0].reason)}
		}
		return err
	})
	switch {
	case len(refused) > 0:
		return &RetryError{whole(refused[0].reason)}
	case err != nil:
		return notNow(err, "drop the rejected entry of %s", id)
	case dropped == nil:
		return ErrNotRejected
	}
	return nil
}

// reapply applies rejected entries again, in the order of the feed, and returns how many were applied, and those that
// are refused again.
func (q *quarantine) reapply(ctx context.Context, ids []uuid.UUID, step time.Duration) (applied int, refused []rejection, err error) {
	err = q.inTx(ctx, q.lock, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			select entity_id, version, position, coalesce(first_position, 0), updated, entity, reason from rejected_entry
			 where service = $1 and feed = $2 and entity_id = any($3) order by position, entity_id`, q.service, q.Name, ids)
		if err != nil {
			return err
		}
		var e feed.Entry
		var entity []byte
		var reason string
		var entries []feed.Entry
		var emptied []rejection
		_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.Version, &e.Position, &e.First, &e.Updated, &entity, &reason}, func() error {
			if e.Entity, e.Deleted = entity, entity == nil; string(entity) == nothingKept {
				emptied = append(emptied, rejection{Entry: e, reason: errors.New(reason)})
			} else {
				entries = append(entries, e)
			}
			return nil
		})
		if err != nil {
			return err
		}
		erased, err := q.erasedOf(ctx, tx, ids)
		if err != nil {
			return err
		}
		for i := range entries {
			if erased[entries[i].ID] {
				eraseEntry(&entries[i])
			}
		}
		entries = (&feed.Page{Entries: entries}).Latest(q.isBad)
		if err := q.complete(entries); err != nil {
			return &RetryError{err.Error()}
		}
		bad, err := q.applyCarefully(ctx, tx, entries, step)
		if err == nil {
			err = q.reject(ctx, tx, bad)
		}
		passed := good(entries, bad)
		if err == nil {
			err = q.clear(ctx, tx, passed)
		}
		applied, refused = len(passed), slices.Concat(emptied, bad)
		return err
	})
	return applied, refused, err
}

// nothingKept is stored in place of an item of which nothing may be kept.
const nothingKept = "[]"

var errNotKept = errors.New("nothing is kept of it: it does not say whose it is, or names an entity that is erased")

// storable returns what may be stored of a bad entry. Of one that does not say whose it is that is nothing, since an
// erasure would not find it.
func storable(e feed.Entry) []byte {
	if e.Nameless() {
		return []byte(nothingKept)
	}
	return e.Entity
}

// reject stores the bad entries.
func (q *quarantine) reject(ctx context.Context, tx pgx.Tx, bad []rejection) error {
	for _, r := range bad {
		_, err := tx.Exec(ctx, `
			with before as (delete from rejected_entry where service = $1 and feed = $2 and entity_id = $3 and checked <> $9 and (position = $5 or position < $5 and checked))
			insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason, checked, first_position)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10::bigint, 0))
			on conflict (service, feed, entity_id, checked) do update set version = excluded.version, position = excluded.position,
			       updated = excluded.updated, entity = excluded.entity, reason = excluded.reason,
			       first_position = coalesce(excluded.first_position, rejected_entry.first_position),
			       rejected_at = now(), attempts = rejected_entry.attempts + 1`,
			q.service, q.Name, r.ID, r.Version, r.Position, r.Updated, storable(r.Entry),
			strings.ToValidUTF8(strings.ReplaceAll(whole(r.reason), "\x00", "�"), "�"), r.checked, r.First)
		if err != nil {
			return err
		}
	}
	if len(bad) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, emptyRejected, q.service, q.Name, idsOf(bad))
	return err
}

func idsOf(bad []rejection) (ids []uuid.UUID) {
	for _, r := range bad {
		ids = append(ids, r.ID)
	}
	return ids
}

// uuidsIn are the UUIDs that the item of row w names, as found[1].
const uuidsIn = ` cross join lateral regexp_matches(replace(lower(encode(w.entity, 'escape')), '\\u002d', '-'), '[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}', 'g') as found `

// emptyRejected empties rejected entries that name an erased entity, under whatever id of their own: those of the
// entities $3, or all if that is null. They stay in the list: something is not applied.
const emptyRejected = `
	with named as materialized (
	     select w.entity_id, w.checked, found[1]::uuid as id from rejected_entry w` + uuidsIn + `
	      where w.service = $1 and w.feed = $2 and ($3::uuid[] is null or w.entity_id = any($3)))
	update rejected_entry r set entity = '[]', reason = 'it names an entity that is erased, so that nothing more of it is kept'
	  from (select distinct entity_id, checked from named join erased_entity e on e.service = $1 and e.feed = $2 and e.id = named.id) as naming
	 where r.service = $1 and r.feed = $2 and r.entity_id = naming.entity_id and r.checked = naming.checked`

// clear deletes from the list of rejected entries what was applied, and what came before it.
func (q *quarantine) clear(ctx context.Context, tx pgx.Tx, applied []feed.Entry) error {
	var ids []uuid.UUID
	var positions []int64
	for _, e := range applied {
		if e.Erased { // nothing comes after that
			e.Position = math.MaxInt64
		}
		ids, positions = append(ids, e.ID), append(positions, e.Position)
	}
	_, err := tx.Exec(ctx, `
		delete from rejected_entry r using unnest($3::uuid[], $4::bigint[]) as applied (id, position)
		 where service = $1 and feed = $2 and r.entity_id = applied.id and r.position <= applied.position`, q.service, q.Name, ids, positions)
	return err
}
