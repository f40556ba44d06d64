package main

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/sql"
)

//go:embed migrations
var migrations embed.FS

func copyMigrations() postgres.Migrations {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // it is embedded
	}
	return postgres.Migrations{Name: "bench", FS: sub}
}

// upsertOrders takes a JSON array of orders, none of them twice: the fastest way for who does not know which are there.
const upsertOrders = `
	insert into orders
	select id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at
	  from jsonb_to_recordset($1) as o (id uuid, version bigint, status text, customer_id uuid, lines jsonb,
	       total_cents bigint, currency text, placed_at timestamptz, updated_at timestamptz)` + unlessNewer

const unlessNewer = `
	on conflict (id) do update set version = excluded.version, status = excluded.status, customer_id = excluded.customer_id,
	       lines = excluded.lines, total_cents = excluded.total_cents, currency = excluded.currency,
	       placed_at = excluded.placed_at, updated_at = excluded.updated_at
	 where orders.version < excluded.version`

// A pair is a source and a place for its copies, a PostgreSQL server each.
type pair struct {
	out    *output
	env    map[string]string
	dir    string
	source *postgres.DB // the feed, and the orders beside it
	server *postgres.DB // of the copies
}

// open starts both. The source's server can be replicated from. Close the pair after an error, too.
func (p *pair) open(ctx context.Context) (err error) {
	if p.source, err = openSource(ctx, p.dir); err != nil {
		return err
	}
	_, err = p.source.Exec(ctx, `alter system set wal_level = logical`)
	if err != nil {
		return err
	}
	p.source.Close() // it takes a start
	if p.source, err = openSource(ctx, p.dir); err != nil {
		return err
	}
	p.server, err = postgres.Open(ctx, postgres.Config{Name: "copies", Dir: p.dir})
	return err
}

// close stops the copies' server first: a source waits for its replicas.
func (p *pair) close() {
	for _, db := range []*postgres.DB{p.server, p.source} {
		if db != nil {
			db.Close()
		}
	}
}

// copyName is the database of the copies, one after the other.
const copyName = "copy"

// fresh gives an empty copy; whoever had the one before is cut off.
func (p *pair) fresh(ctx context.Context) (*postgres.DB, error) {
	if _, err := p.server.Exec(ctx, `drop database if exists `+copyName+` with (force)`); err != nil {
		return nil, err
	}
	u, err := url.Parse(p.server.Config().ConnString())
	if err != nil {
		return nil, err
	}
	u.Path = "/" + copyName
	db, err := postgres.Open(ctx, postgres.Config{URL: u.String(), Name: "bench"}, sql.Migrations("subscribe"), copyMigrations())
	if err != nil {
		return nil, err
	}
	_, err = p.server.Exec(ctx, `checkpoint`) // no contestant pays for another's
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// startSource serves the feed.
func (p *pair) startSource(ctx context.Context) (*server, error) {
	return startServer(ctx, p.env, salesKind, p.source.Config().ConnString())
}

// empty leaves no order and no entry.
func (p *pair) empty(ctx context.Context) error {
	_, err := p.source.Exec(ctx, `delete from feed_entry; delete from feed; truncate orders; select feed_create('`+feedName+`')`)
	return err
}

const fillBatch = 5000

// fill puts n orders into the source: rows, and entries of the feed.
func (p *pair) fill(ctx context.Context, n int) error {
	began := time.Now()
	if err := p.empty(ctx); err != nil {
		return err
	}
	log, err := publish.Open(ctx, p.source.Pool, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer log.Close()
	for left := n; left > 0; left -= fillBatch {
		err := log.InTx(ctx, func(tx *publish.Tx) error {
			var rows [][]any
			for range min(left, fillBatch) {
				o := newOrder()
				e, err := newEntry(o)
				if err != nil {
					return err
				}
				tx.Append(feedName, e)
				rows = append(rows, orderRow(o))
			}
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"orders"}, orderColumns, pgx.CopyFromRows(rows))
			return err
		})
		if err != nil {
			return err
		}
	}
	if _, err := p.source.Exec(ctx, `vacuum analyze`); err != nil {
		return err
	}
	_, err = p.source.Exec(ctx, `checkpoint`)
	fmt.Fprintf(p.out, "%s orders put into the source in %.0f s\n", count(n), time.Since(began).Seconds())
	return err
}

// equal reports a copy that has not every row of the source as it is there.
func (p *pair) equal(ctx context.Context, copied *pgxpool.Pool) error {
	const sum = `select count(*) || ' orders, sum ' || coalesce(sum(hashtextextended(o::text, 0)), 0) from orders as o`
	var want, got string
	err := cmp.Or(p.source.QueryRow(ctx, sum).Scan(&want), copied.QueryRow(ctx, sum).Scan(&got))
	if err == nil && got != want {
		err = fmt.Errorf("the copy has %s; the source has %s", got, want)
	}
	return err
}

// programOf gives a program that belongs to the PostgreSQL of the source, such as psql; empty if it is not there.
func (p *pair) programOf(ctx context.Context, name string) (path string, err error) {
	var dir string
	if err = p.source.QueryRow(ctx, `select setting from pg_config where name = 'BINDIR'`).Scan(&dir); err != nil {
		return "", err
	}
	return lookPath(filepath.Join(dir, name), name), nil
}
