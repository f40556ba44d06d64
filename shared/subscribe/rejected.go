package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A RejectedEntry is an entry that could not be applied while others were: the newest such version of its entity.
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

// rejectedEntries returns at most limit rejected entries, in the order of the feed, after the given one.
func (q *quarantine) rejectedEntries(ctx context.Context, position int64, entity uuid.UUID, limit int) ([]RejectedEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := q.pool.Query(ctx, `
		select entity_id, version, position, updated, entity, reason, rejected_at, attempts from rejected_entry
		 where service = $1 and feed = $2 and (position, entity_id) > ($3, $4) order by position, entity_id limit $5`,
		q.service, q.Name, position, entity, limit)
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

// The service may have been at fault, so rejected entries are tried again by themselves, after a poll that succeeded:
// first at the start, and after a pause, which doubles while none of them is applied.
const (
	firstRetry = time.Minute
	lastRetry  = time.Hour
	retryTime  = 10 * time.Second // after which the rest waits for the next poll
)

// retrySoon notes that an entry has been rejected.
func (q *quarantine) retrySoon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.retryAt, q.retryPause = time.Now().Add(firstRetry), firstRetry
}

// retryDue tries the rejected entries again, the one that waits longest first, if that is due. goOn says whether it may
// go on.
func (q *quarantine) retryDue(ctx context.Context, goOn func() bool) error {
	q.mu.Lock()
	due := !time.Now().Before(q.retryAt)
	q.mu.Unlock()
	if !due {
		return nil
	}
	ids, err := q.rejectedIDs(ctx)
	if err != nil {
		return err
	}
	applied, left := 0, ids
	for began := time.Now(); len(left) > 0 && time.Since(began) < retryTime && goOn(); left = left[1:] {
		err = q.retry(ctx, left[0])
		_, again := errors.AsType[*RetryError](err)
		switch {
		case err == nil:
			applied++
		case !again && !errors.Is(err, ErrNotRejected): // a person may have dropped it
			return err
		}
	}
	if applied > 0 {
		q.logger.InfoContext(ctx, "rejected entries were applied", "feed", q.Name, "applied", applied, "still_rejected", len(ids)-applied)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case applied > 0 && len(left) > 0: // the service is mended: go on with the next poll
		return nil
	case applied > 0:
		q.retryPause = firstRetry
	default:
		q.retryPause = min(max(2*q.retryPause, firstRetry), lastRetry)
	}
	q.retryAt = time.Now().Add(q.retryPause)
	return nil
}

// rejectedIDs returns the entities of the rejected entries, the one whose last attempt is longest ago first. It leaves
// out malformed items, which are kept as arrays, and what ends the session, since that may stop the whole database.
func (q *quarantine) rejectedIDs(ctx context.Context) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := q.pool.Query(ctx, `
		select entity_id from rejected_entry where service = $1 and feed = $2 and substr(entity, 1, 1) is distinct from '['
		   and reason not like $3 || '%' order by rejected_at, position`, q.service, q.Name, sessionEnded)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

const lockNotAvailable = "55P03"

// retry applies a rejected entry again. The entry is still newer than the copy's row, since a later good version would
// have cleared it. retry returns a [*RetryError] if the entry is refused again.
func (q *quarantine) retry(ctx context.Context, id uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	var reason string
	err := q.inTx(ctx, func(first *pgx.Batch) {
		// A page that is being applied locks this row for a moment, the end of a resync for longer.
		first.Queue(`set local lock_timeout = '1s'`)
		first.Queue(`select from subscription where service = $1 and feed = $2 for no key update`, q.service, q.Name)
		first.Queue(`set local lock_timeout to default`)
	}, func(tx pgx.Tx) error {
		reason = ""
		e := feed.Entry{ID: id}
		var entity []byte
		var stored string
		err := tx.QueryRow(ctx, `
			select version, position, updated, entity, reason from rejected_entry
			 where service = $1 and feed = $2 and entity_id = $3`, q.service, q.Name, id).
			Scan(&e.Version, &e.Position, &e.Updated, &entity, &stored)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotRejected
		}
		if err != nil {
			return err
		}
		if string(entity) == nothingKept {
			reason = stored
			return nil
		}
		e.Entity, e.Deleted = entity, entity == nil
		if erased, err := q.erasedOf(ctx, tx, []uuid.UUID{id}); err != nil {
			return err
		} else if erased[id] {
			eraseEntry(&e)
		}
		rejected, err := q.applyCarefully(ctx, tx, []feed.Entry{e}, readTimeout/2)
		switch {
		case err != nil:
			return err
		case len(rejected) > 0:
			reason = whole(rejected[0].reason)
			return q.reject(ctx, tx, rejected)
		default:
			return q.clear(ctx, tx, id)
		}
	})
	pgErr, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, ErrNotRejected):
		return err
	case pgErr != nil && pgErr.Code == lockNotAvailable:
		return ErrApplying
	case err != nil:
		return &pageError{what: fmt.Sprintf("apply the rejected entry of %s again", id), err: err}
	case reason != "":
		return &RetryError{reason}
	}
	return nil
}
