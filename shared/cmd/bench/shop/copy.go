package shop

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
)

//go:embed migrations
var migrations embed.FS

// Migrations are those of a consumer's database.
func Migrations() postgres.Migrations {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // it is embedded
	}
	return postgres.Migrations{Name: "shop", FS: sub}
}

// Watch lets each order that is inserted take effect, be it a reservation, an invoice or a mail in an outbox, and
// notifies sessions that listen to `copied` of its commit. PostgreSQL's replication inserts without a search path.
const Watch = `
	create table effect (order_id uuid not null);
	create function copied() returns trigger language plpgsql as $$ begin
		insert into public.effect values (new.id);
		perform pg_notify('copied', new.id::text);
		return null;
	end $$;
	create trigger copied after insert on orders for each row execute function copied();
	alter table orders enable always trigger copied`

// fromJSON inserts a JSON array of orders.
var fromJSON = `insert into orders (` + strings.Join(Columns, ", ") + `) select ` + strings.Join(Columns, ", ") + `
	  from jsonb_to_recordset($1) as o (id uuid, version bigint, status text, customer_id uuid, lines jsonb,
	       total_cents bigint, currency text, placed_at timestamptz, updated_at timestamptz)`

// Upsert takes a JSON array of orders, none of them twice: the fastest way for a consumer that does not know which are
// there.
var Upsert = fromJSON + `
	on conflict (id) do update set version = excluded.version, status = excluded.status,
	       customer_id = excluded.customer_id, lines = excluded.lines, total_cents = excluded.total_cents, currency = excluded.currency,
	       placed_at = excluded.placed_at, updated_at = excluded.updated_at
	 where orders.version < excluded.version`

// A Querier is a pool or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Put writes an order, once, whatever is there.
func Put(ctx context.Context, db Querier, body []byte) error {
	_, err := db.Exec(ctx, Upsert, fmt.Appendf(nil, "[%s]", body))
	return err
}

// Take looks whether the order is there, and inserts it, as it is mostly done.
func Take(ctx context.Context, db Querier, body []byte) error {
	var o struct {
		ID uuid.UUID `json:"id"`
	}
	if err := json.Unmarshal(body, &o); err != nil {
		return err
	}
	var there bool
	if err := db.QueryRow(ctx, `select exists (select from orders where id = $1)`,
		o.ID).Scan(&there); err != nil || there {
		return err
	}
	_, err := db.Exec(ctx, fromJSON, fmt.Appendf(nil, "[%s]", body))
	return err
}

// A consumer has a copy of the orders.
type consumer struct {
	*settings
	db     *pgxpool.Pool
	logger *slog.Logger
	crash
}

// write lets fn write an order, at the pace of a consumer that is slow, and is where it crashes, if it does.
func (c *consumer) write(ctx context.Context, body []byte,
	fn func(context.Context, Querier, []byte) error) (err error) {
	if c.Slow == 0 {
		err = fn(ctx, c.db, body)
	} else {
		err = pgx.BeginFunc(ctx, c.db, func(tx pgx.Tx) error {
			if err := work(ctx, tx, c.Slow); err != nil {
				return err
			}
			return fn(ctx, tx, body)
		})
	}
	if err == nil {
		c.here(c.Crash)
	}
	return err
}

// work takes that long, in one transaction after the other.
func work(ctx context.Context, tx pgx.Tx, duration time.Duration) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(1)`); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `select pg_sleep($1)`, duration.Seconds())
	return err
}

// A crash counts the orders that are where a process is killed.
type crash struct{ there atomic.Int64 }

// here kills the process when `at` orders have come, and lets the others wait here for that; 0 is never.
func (c *crash) here(at int64) {
	if at == 0 {
		return
	}
	if c.there.Add(1) >= at {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	}
	select {}
}
