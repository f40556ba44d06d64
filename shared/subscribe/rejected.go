package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

// drop forgets a rejected version of an entity, or all if version is 0. If its row is of a lost history, and so of a later version, which the
// next versions would not replace, the entity is deleted.
func (q *quarantine) drop(ctx context.Context, id uuid.UUID, version int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	var dropped *int64
	var refused []rejection
	err := q.inTx(ctx, q.lock, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			with dropped as (delete from rejected_entry where service = $1 and feed = $2 and entity_id = $3 and $4::bigint in (0, version) returning version)
			select max(version) from dropped`, q.service, q.Name, id, version).Scan(&dropped)
		if err != nil || dropped == nil || q.Apply == nil {
			return err
		}
		var b pgx.Batch
		known := noneKnown()
		gone := []feed.Entry{{ID: id, Version: *dropped, Deleted: true}}
		q.lookUp(&b, gone, false, known)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil || known.rows[id] <= *dropped {
			return err
		}
		refused, err = q.applyCarefully(ctx, tx, gone, readTimeout/2)
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
			select entity_id, version, position, updated, entity, reason from rejected_entry
			 where service = $1 and feed = $2 and entity_id = any($3) order by position, entity_id`, q.service, q.Name, ids)
		if err != nil {
			return err
		}
		var e feed.Entry
		var entity []byte
		var reason string
		var entries []feed.Entry
		var emptied []rejection
		_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.Version, &e.Position, &e.Updated, &entity, &reason}, func() error {
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
