package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/sql"
)

// A cluster is a PostgreSQL server for databases that are all made of one template.
type cluster struct {
	*postgres.DB
	conns int // of a process to a database, or 0 for the usual number
}

const templateName = "template1" // which every server has

// openCluster starts a server that ends with the bench, and fills the template by the migrations.
func (b *bench) openCluster(ctx context.Context, name string, conns int,
	migrations ...postgres.Migrations) (*cluster, error) {
	c := &cluster{conns: conns}
	if err := c.open(ctx, filepath.Join(b.dir, name)); err != nil {
		return nil, err
	}
	b.atEnd(func() { c.Close() })
	db, err := c.connect(ctx, templateName)
	if err != nil {
		return nil, err
	}
	defer db.Close() // a template has no sessions
	return c, migrate.Up(ctx, db.Pool, "", migrations...)
}

func (b *bench) openSource(ctx context.Context, conns int) (*cluster, error) {
	return b.openCluster(ctx, "source", conns, sql.Migrations("publish"), sql.Migrations("sales"))
}

func (b *bench) openCopies(ctx context.Context, name string, conns int) (*cluster, error) {
	return b.openCluster(ctx, name, conns, sql.Migrations("subscribe"), shop.Migrations())
}

func (c *cluster) open(ctx context.Context, dir string) (err error) {
	c.DB, err = postgres.Open(ctx, postgres.Config{Name: "postgres", Dir: dir})
	return err
}

// create makes a database of the template, or of another one.
func (c *cluster) create(ctx context.Context, name string, of ...string) (*postgres.DB, error) {
	if _, err := c.Exec(ctx, `create database `+name+` template `+append(of, templateName)[0]); err != nil {
		return nil, err
	}
	return c.connect(ctx, name)
}

func (c *cluster) connect(ctx context.Context, name string) (*postgres.DB, error) {
	u, err := url.Parse(c.Config().ConnString())
	if err != nil {
		return nil, err
	}
	u.Path = "/" + name
	if c.conns > 0 {
		query := u.Query()
		query.Set("pool_max_conns", fmt.Sprint(c.conns))
		u.RawQuery = query.Encode()
	}
	return postgres.Open(ctx, postgres.Config{URL: u.String(), Name: "bench"})
}

const fillBatch = 5000

// fill puts n orders into an empty source: rows, and entries of the feed.
func (b *bench) fill(ctx context.Context, n int) error {
	began := time.Now()
	_, err := b.source.Exec(ctx,
		`delete from feed_entry; delete from feed; truncate orders; select feed_create('`+order.Feed+`')`)
	if err != nil || n == 0 {
		return err
	}
	log, err := publish.Open(ctx, b.source.Pool, publish.Options{})
	if err != nil {
		return err
	}
	defer log.Close()
	for left := n; left > 0; left -= fillBatch {
		err := log.InTx(ctx, func(tx *publish.Tx) error {
			var rows [][]any
			for range min(left, fillBatch) {
				o := shop.NewOrder(shop.NewID())
				e, err := shop.NewEntry(o)
				if err != nil {
					return err
				}
				tx.Append(order.Feed, e)
				rows = append(rows, shop.Row(o))
			}
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"orders"}, shop.Columns, pgx.CopyFromRows(rows))
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, command := range []string{`vacuum analyze`, `checkpoint`} {
		if _, err := b.source.Exec(ctx, command); err != nil {
			return err
		}
	}
	fmt.Fprintf(b.out, "%s orders put into the source in %.0f s\n", count(n), time.Since(began).Seconds())
	return nil
}

type pair struct {
	*bench
	copies *cluster
}

const copyName = "copy"

// openLogicalSource starts a server whose write-ahead log can be decoded.
func (b *bench) openLogicalSource(ctx context.Context, conns int) (*cluster, error) {
	source, err := b.openSource(ctx, conns)
	if err != nil {
		return nil, err
	}
	if _, err := source.Exec(ctx, `alter system set wal_level = logical`); err != nil {
		return nil, err
	}
	source.Close() // it takes a start
	return source, source.open(ctx, filepath.Join(b.dir, "source"))
}

// openPair starts both. PostgreSQL can replicate the source.
func (b *bench) openPair(ctx context.Context) (*pair, error) {
	source, err := b.openLogicalSource(ctx, 0)
	if err != nil {
		return nil, err
	}
	if b.source, err = source.create(ctx, "bench"); err != nil {
		return nil, err
	}
	copies, err := b.openCopies(ctx, "copies", 0) // a source waits for its replicas: they close before it
	return &pair{b, copies}, err
}

// fresh returns an empty copy in place of the one before, and cuts off its sessions.
func (p *pair) fresh(ctx context.Context) (*postgres.DB, error) {
	drop := `drop database if exists ` + copyName + ` with (force)`
	for _, command := range []string{drop, `checkpoint`} { // no contestant pays for another's
		if _, err := p.copies.Exec(ctx, command); err != nil {
			return nil, err
		}
	}
	return p.copies.create(ctx, copyName)
}

func (b *bench) startSource(ctx context.Context, settings map[string]string) (*process, error) {
	return b.start(ctx, shop.SalesByFeed, b.source.Config().ConnString(), settings)
}

// ordersOf sums up the first n orders, or all if n is 0. A source gives them ids in the order of its feed.
func ordersOf(ctx context.Context, db *pgxpool.Pool, n int) (sum string, err error) {
	err = db.QueryRow(ctx, `
		select count(*) || ' orders, sum ' || coalesce(sum(hashtextextended(o::text, 0)), 0) from orders as o
		 where $1 = 0 or id <= (select id from orders order by id offset greatest($1, 1) - 1 limit 1)`, n).Scan(&sum)
	return sum, err
}

// equal reports a copy that has not every row of the source as it is there.
func equal(ctx context.Context, copied *pgxpool.Pool, want string) error {
	got, err := ordersOf(ctx, copied, 0)
	if err == nil && got != want {
		err = fmt.Errorf("the copy has %s; the source has %s", got, want)
	}
	return err
}

// findPsql returns the psql that belongs to the PostgreSQL of the source, or another one.
func (p *pair) findPsql(ctx context.Context) (path string, err error) {
	if err = p.source.QueryRow(ctx, `select setting from pg_config where name = 'BINDIR'`).Scan(&path); err != nil {
		return "", err
	}
	if path = lookPath(filepath.Join(path, "psql"), "psql"); path == "" {
		err = errors.New("psql is not installed here")
	}
	return path, err
}

// replicate makes PostgreSQL copy the source's orders by itself: what is there now, if withData, and what comes. It
// returns when that has come so far; end ends it.
func (p *pair) replicate(ctx context.Context, db *postgres.DB, withData bool) (end func() error, err error) {
	end = func() error {
		_, err := db.Exec(ctx, `drop subscription if exists bench`)
		if err == nil {
			_, err = p.source.Exec(ctx, `drop publication if exists bench`)
		}
		return err
	}
	if _, err := p.source.Exec(ctx, `create publication bench for table orders`); err != nil {
		return end, err
	}
	create := fmt.Sprintf(`create subscription bench connection '%s' publication bench with (copy_data = %t)`,
		p.source.Config().ConnString(), withData)
	if _, err := db.Exec(ctx, create); err != nil {
		return end, err
	}
	return end, eventually(ctx, func() (copied bool, err error) {
		// f: the copy is finished; s, r: and what happened meanwhile has come
		err = db.QueryRow(ctx, `
			select coalesce(bool_and(srsubstate in ('f', 's', 'r')), false) from pg_subscription_rel`).Scan(&copied)
		return copied, err
	})
}
