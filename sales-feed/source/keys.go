package source

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/service"
)

// KeySettings set how long the answers to requests with an Idempotency-Key are kept.
type KeySettings struct {
	Age service.Age `env:"IDEMPOTENCY_KEY_AGE" envDefault:"168h" help:"how long an Idempotency-Key is kept after its first answer, at least 1h"`
}

const (
	keysAtOnce    = 500                    // removed in one transaction at most
	pauseOfKeys   = 100 * time.Millisecond // between two transactions
	intervalOfOld = time.Minute            // until the next check, once no old key is left
)

var began = time.Now()

// SteadyTime returns the time by the machine's clock as it was set when the process began. Keys are dated, and removed,
// by this time and by now() together, so that no answer is forgotten early if one of the clocks is wrong for a while.
func SteadyTime() time.Time { return began.Add(time.Since(began)) }

// removeOld removes idempotency keys that are older than age, and runs the statement sweep, until ctx ends.
func removeOld(ctx context.Context, pool *pgxpool.Pool, age service.Age, sweep string, logger *slog.Logger) {
	for ctx.Err() == nil {
		n, err := removeKeys(ctx, pool, age)
		if err != nil && ctx.Err() == nil {
			logger.WarnContext(ctx, "removing old idempotency keys failed", "error", err)
		}
		if sweep != "" && n < keysAtOnce {
			sweeping, cancel := context.WithTimeout(ctx, ReadTimeout)
			if _, err := pool.Exec(sweeping, sweep); err != nil && ctx.Err() == nil {
				logger.WarnContext(ctx, "removing expired rows failed", "error", err)
			}
			cancel()
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

// removeKeys removes up to keysAtOnce keys older than age, the oldest first, and returns their number, which is 0
// while another process removes keys.
func removeKeys(ctx context.Context, pool *pgxpool.Pool, age service.Age) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, ReadTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(hashtext('idempotency_key'))`).Scan(&mine); err != nil || !mine {
			return err
		}
		var b pgx.Batch
		b.Queue(`set local synchronous_commit = off`) // a key that reappears after a crash is removed again
		b.Queue(`delete from idempotency_key where key = any(array(
			select key from idempotency_key where created_at < least(now(), $1) - $2::interval order by created_at limit $3))`,
			SteadyTime(), time.Duration(age), keysAtOnce).Exec(
			func(done pgconn.CommandTag) error {
				n = done.RowsAffected()
				return nil
			})
		return tx.SendBatch(ctx, &b).Close()
	})
	return n, err
}
