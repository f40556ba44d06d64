package source

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// KeyAge is how long an Idempotency-Key is kept at least, from the first answer on: a client that was away over a week-end or
// a holiday may still repeat its request.
const KeyAge = 7 * 24 * time.Hour

const (
	keysAtOnce    = 500                    // are removed in a transaction at most
	pauseOfKeys   = 100 * time.Millisecond // between two transactions
	intervalOfOld = time.Minute            // from when no old key was left until the next look
)

// removeOldKeys removes idempotency keys that are older than KeyAge, until ctx ends.
func removeOldKeys(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) {
	for ctx.Err() == nil {
		n, err := removeKeys(ctx, pool)
		if err != nil && ctx.Err() == nil {
			logger.WarnContext(ctx, "removing old idempotency keys failed", "error", err)
		}
		pause := intervalOfOld
		if n == keysAtOnce {
			pause = pauseOfKeys
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// removeKeys removes some of the keys that are older than KeyAge, the oldest first, and returns how many. While another
// process does it, that is none.
func removeKeys(ctx context.Context, pool *pgxpool.Pool) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, ReadTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(hashtext('idempotency_key'))`).Scan(&mine); err != nil || !mine {
			return err
		}
		var b pgx.Batch
		b.Queue(`set local synchronous_commit = off`) // a key that comes back is removed again
		b.Queue(`delete from idempotency_key where key = any(array(
			select key from idempotency_key where created_at < now() - $1::interval order by created_at limit $2))`, KeyAge, keysAtOnce).Exec(
			func(done pgconn.CommandTag) error {
				n = done.RowsAffected()
				return nil
			})
		return tx.SendBatch(ctx, &b).Close()
	})
	return n, err
}
