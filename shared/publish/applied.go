package publish

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// follows reports whether a feed is as the list says. listed is the length that the list had when it last was.
func (l *Log) follows(listed int64) bool {
	if l.reerasure == nil {
		return true
	}
	applied := l.reerasure.list.isApplied(listed)
	if applied && l.reerasure.list.hasUnknown() { // when it can be applied, the outcome is known, or comes to be an erasure
		l.applying(context.Background(), false)
	}
	return applied
}

// withListApplied calls read. As long as read returns ErrUnapplied, withListApplied applies the list and calls read
// again, up to maxAttempts times. If read finds something of an erased entity twice, as after the restore of a single
// table, withListApplied applies the whole list.
func (l *Log) withListApplied(ctx context.Context, read func() error) error {
	isBack := false
	for range maxAttempts {
		err := read()
		if !errors.Is(err, ErrUnapplied) {
			return err
		}
		wasBack := isBack
		if isBack = errors.Is(err, errBack); isBack && wasBack { // at first, it may have been read before the erasure
			l.reerasure.whole.Store(true)
		}
		if err := l.apply(ctx); err != nil {
			return err
		}
	}
	return ErrUnapplied
}

// View calls read with one state of the database in which entities of a feed have nothing left that is erased. read
// returns the ids of those of which it has found something. It may be called again.
func (l *Log) View(ctx context.Context, feedName string, read func(tx pgx.Tx) (found []uuid.UUID, err error)) error {
	return l.withListApplied(ctx, func() error {
		return pgx.BeginTxFunc(ctx, l.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			if err := l.caughtUp(ctx, tx.Conn()); err != nil {
				return err
			}
			var least, most int64
			err := tx.QueryRow(ctx, `select coalesce(min(listed), 0), coalesce(max(listed), 0) from feed`).Scan(&least, &most)
			switch {
			case err != nil:
				return err
			case !l.follows(least) || !l.follows(most):
				return ErrUnapplied
			}
			found, err := read(tx)
			if err == nil {
				err = l.notErased(feedName, found...)
			}
			return err
		})
	})
}

// errBack means that the database has something of an entity that is on the list.
var errBack = fmt.Errorf("%w Something of an erased entity is in the database", ErrUnapplied)

// notErased returns errBack if one of the entities, of which the database still has something, is on the list, as
// after the restore of a single table.
func (l *Log) notErased(feedName string, ids ...uuid.UUID) error {
	if l.reerasure == nil {
		return nil
	}
	switch listed, err := l.reerasure.list.has(feedName, ids...); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnapplied, err)
	case listed:
		return errBack
	}
	return nil
}
