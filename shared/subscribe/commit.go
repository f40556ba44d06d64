package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/publish"
)

// InTx runs fn in a read committed transaction. If the database does not confirm the commit before ctx ends, the error
// wraps [publish.ErrUnknown], and the commit goes on: cancelling one that waits for a synchronous standby would show
// others what a failover takes away. Its connection then leaves the pool, and is closed when the database answers.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	return inTx(ctx, pool, func(*pgx.Batch) {}, fn)
}

// inTx is InTx. The statements that first queues are sent with BEGIN.
func inTx(ctx context.Context, pool *pgxpool.Pool, first func(*pgx.Batch), fn func(pgx.Tx) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	var tx pgx.Tx
	defer func() {
		if conn != nil {
			if tx != nil {
				_ = tx.Rollback(ctx) // does nothing after the commit
			}
			conn.Release()
		}
	}()
	var b pgx.Batch
	b.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted}) // so that a statement that waited for a lock sees what its holder has committed
	first(&b)
	results := conn.SendBatch(ctx, &b)
	tx, err = results.Tx(), results.Close()
	if err == nil {
		err = fn(tx)
	}
	if err == nil { // what was deferred runs before the commit, so that it can be cancelled
		if _, err = tx.Exec(ctx, `set constraints all immediate`); err != nil && tx.Conn().IsClosed() && ctx.Err() == nil {
			err = &sessionError{cause: err}
		}
	}
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return err
	}
	var commitErr error
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		commitErr = tx.Commit(context.WithoutCancel(ctx))
	}()
	select {
	case <-committed:
		return commitErr
	case <-ctx.Done():
	}
	left := conn.Hijack()
	conn = nil
	go func() {
		<-committed
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = left.Close(closing)
	}()
	return fmt.Errorf("%w: %w", publish.ErrUnknown, ctx.Err())
}

// exec runs one statement as InTx does.
func (t *target) exec(ctx context.Context, sql string, args ...any) error {
	return InTx(ctx, t.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	})
}

// A confirmedLate is returned instead of errFenced, and is one, after a commit whose outcome was unknown.
type confirmedLate struct{}

func (confirmedLate) Error() string {
	return "the database has confirmed an earlier commit only now; the next poll goes on after it"
}

func (confirmedLate) Is(target error) bool { return target == errFenced }

// inTx runs fn in a transaction. The statements that first queues are sent with BEGIN. If the service publishes and
// another writer has appended in the meantime, first and fn run again, so they must have no effect outside the
// transaction.
func (t *target) inTx(ctx context.Context, first func(*pgx.Batch), fn func(pgx.Tx) error) (err error) {
	if t.log == nil {
		err = inTx(ctx, t.pool, first, fn)
	} else {
		err = t.log.InTx(ctx, func(tx *publish.Tx) error {
			var b pgx.Batch
			first(&b)
			if err := tx.SendBatch(ctx, &b).Close(); err != nil {
				return err
			}
			return fn(tx)
		})
	}
	if errors.Is(err, publish.ErrUnknown) {
		t.unknown.Store(true) // until the cursor moves
	} else if errors.Is(err, errFenced) && t.unknown.Swap(false) {
		return confirmedLate{}
	}
	return err
}
