package shop

import (
	"context"
	"embed"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
)

//go:embed migrations
var migrations embed.FS

// Migrations are those of a consumer's database. Who listens to `copied` hears the id of each order with its commit.
func Migrations() postgres.Migrations {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // it is embedded
	}
	return postgres.Migrations{Name: "shop", FS: sub}
}

const (
	columns = ` (id, version, customer_id, total_cents, placed_at) `
	// of takes a JSON array of orders.
	of     = ` select id, version, customer_id, total_cents, placed_at from jsonb_to_recordset($1) as o (id uuid, version bigint, customer_id uuid, total_cents bigint, placed_at timestamptz) `
	upsert = `insert into orders as own` + columns + of + `
		on conflict (id) do update set version = excluded.version, customer_id = excluded.customer_id, total_cents = excluded.total_cents, placed_at = excluded.placed_at
		where own.version < excluded.version`
)

// An ownCopy is what a consumer has of the orders.
type ownCopy struct {
	db    *pgxpool.Pool
	slow  time.Duration
	crash crash
}

func newCopy(db *pgxpool.Pool, set *settings) *ownCopy {
	return &ownCopy{db: db, slow: set.Slow, crash: crash{at: set.Crash}}
}

// An executor is a pool or a transaction.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// write lets fn write an order, at the pace of a consumer that is slow.
func (c *ownCopy) write(ctx context.Context, fn func(executor) error) error {
	if c.slow == 0 {
		return fn(c.db)
	}
	return pgx.BeginFunc(ctx, c.db, func(tx pgx.Tx) error {
		if err := work(ctx, tx, c.slow); err != nil {
			return err
		}
		return fn(tx)
	})
}

// work takes so long, one transaction after the other, as what can be done by one alone.
func work(ctx context.Context, tx pgx.Tx, duration time.Duration) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(1)`); err != nil || duration == 0 {
		return err
	}
	_, err := tx.Exec(ctx, `select pg_sleep($1)`, duration.Seconds())
	return err
}

// put writes an order, once.
func (c *ownCopy) put(ctx context.Context, body []byte) error {
	return c.write(ctx, func(db executor) error {
		_, err := db.Exec(ctx, upsert, array(body))
		return err
	})
}

func array(body []byte) []byte { return append(append([]byte{'['}, body...), ']') }
