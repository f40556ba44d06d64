package main

import (
	"context"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
)

// A cluster is a PostgreSQL server for many databases.
type cluster struct{ *postgres.DB }

const (
	templateName = "template1" // which every server has: each database is thousands of kilobytes and hundreds of files
	connsEach    = 6           // of a process to a database: many are in a cluster
)

// openCluster makes the template by the migrations. Close the cluster after an error, too.
func openCluster(ctx context.Context, dir string, migrations ...postgres.Migrations) (c cluster, err error) {
	if c.DB, err = postgres.Open(ctx, postgres.Config{Name: "postgres", Dir: dir}); err != nil {
		return c, err
	}
	db, err := c.connect(ctx, templateName, migrations...)
	if err == nil {
		db.Close() // a template has no sessions
	}
	return c, err
}

func (c cluster) close() {
	if c.DB != nil {
		c.DB.Close()
	}
}

// create makes a database.
func (c cluster) create(ctx context.Context, name string) (*pgxpool.Pool, error) {
	if _, err := c.Exec(ctx, `create database `+name); err != nil {
		return nil, err
	}
	return c.connect(ctx, name)
}

// connect makes the database if there is none. Whoever works with its tables is not called bench.
func (c cluster) connect(ctx context.Context, name string, migrations ...postgres.Migrations) (*pgxpool.Pool, error) {
	u, err := url.Parse(c.Config().ConnString())
	if err != nil {
		return nil, err
	}
	u.Path = "/" + name
	query := u.Query()
	query.Set("pool_max_conns", fmt.Sprint(connsEach))
	u.RawQuery = query.Encode()
	db, err := postgres.Open(ctx, postgres.Config{URL: u.String(), Name: "bench"})
	if err != nil {
		return nil, err
	}
	return db.Pool, postgres.Migrate(ctx, db.Pool, migrations...)
}
