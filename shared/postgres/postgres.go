// Package postgres opens a service's database, on the server of a URL or on a private server.
package postgres

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres/internal/cluster"
)

const (
	closeTimeout = 10 * time.Second // for connections to be returned
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

// DefaultDir is the default folder of private servers and of other files of services.
const DefaultDir = ".edison"

// Config describes a database.
type Config struct {
	// URL is the postgres:// URL of a server; empty: a private server. If it names no database, Name is used. A missing
	// database is created.
	URL string
	// ReadURL is the postgres:// URL of hot standbys of the database, or empty.
	ReadURL string
	// Name is the service's name: database, folder of the private server and application_name.
	Name string
	// Schema is the schema of its tables, which is made if it is missing and comes first in the search_path of the
	// connections. Empty means the first of search_path, or if that has the tables of another service, one called Name.
	Schema string
	// Dir is the folder of private servers; the one of Name is in Dir/Name. The default is ".edison". With the default
	// only, a server started by root whose user cannot enter Dir has its data under /var/lib/edison-cars.
	Dir string
	// Bin is the folder of the PostgreSQL binaries of a private server. By default they are searched in PATH, by
	// pg_config and in the usual folders.
	Bin string
	// Foreign means that the database is another program's. It is not created, no schema is, and the tables are used
	// where they are: in the schema of search_path that has the tables of the last set of migrations, or else in its
	// first one. A role that may not make or use them gets a [migrate.DeniedError].
	Foreign bool
	// Logger defaults to none.
	Logger *slog.Logger

	watchdog, volatile bool // see cluster.Options
}

// FindServer returns an error that says what to do if this machine has no PostgreSQL for private servers. The folder of
// its binaries is bin, or "" if they are to be searched for.
func FindServer(ctx context.Context, bin string) error { return cluster.Find(ctx, bin) }

// Migrations is one numbered set of migrations of a database.
type Migrations = migrate.Set

// A DB is a pool of connections, with its private server, if any.
type DB struct {
	*pgxpool.Pool
	Standbys []*pgxpool.Pool // one for each host of the ReadURL, whatever it is and whether or not it answers

	cluster *cluster.Cluster
	stop    context.CancelFunc // ends the watch of several hosts
	logger  *slog.Logger
}

// Open starts the private server if there is no URL, connects, applies the migrations in the order given, and returns a
// pool. It waits up to 30 s for a server that does not answer yet or does not accept writes. A connection pooler must
// give each connection a session of its own.
//
// If the URL names several hosts, connections lead to the one that accepts writes. A primary that another one has
// replaced, which its timeline tells, is not used any more, whatever host or name leads to it.
func Open(ctx context.Context, cfg Config, migrations ...Migrations) (_ *DB, err error) {
	if !namePattern.MatchString(cfg.Name) {
		return nil, fmt.Errorf("open database: the name %q is not 1 to 63 letters, digits, - and _", cfg.Name)
	}
	db := &DB{logger: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)), stop: func() {}}
	defer func() {
		if err != nil {
			db.Close()
			err = fmt.Errorf("open database %s: %w", cfg.Name, err)
		}
	}()
	url := cfg.URL
	if url == "" {
		db.cluster, err = cluster.Start(ctx, cluster.Options{
			Dir:      filepath.Join(cmp.Or(cfg.Dir, DefaultDir), cfg.Name),
			Fallback: cfg.Dir == "",
			Bin:      cfg.Bin,
			Watchdog: cfg.watchdog,
			Volatile: cfg.volatile,
			Logger:   db.logger,
		})
		if err != nil {
			return nil, err
		}
		url = db.cluster.URL(cfg.Name)
		db.logger.Info("private PostgreSQL runs", "folder", db.cluster.Folder())
	}
	primaries := newPrimaries(db.logger)
	poolConfig, err := parseURL(url, cfg.Name, nil)
	if err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	db.stop = stop
	primaries.watch(watching, poolConfig.ConnConfig)
	primaries.guard(poolConfig.ConnConfig)
	if err := reach(ctx, poolConfig.ConnConfig, db.cluster != nil, cfg.Foreign, db.logger); err != nil {
		return nil, err
	}
	schema, err := chooseSchema(ctx, poolConfig.ConnConfig, saysSearchPath(url) || cfg.Schema != "", cfg, migrations, db.logger)
	if err != nil {
		return nil, err
	}
	defer schema.close()
	if schema.name != "" && !cfg.Foreign {
		db.logger.Info("other services use this database: using a schema of its own", "schema", schema.name)
	}
	if len(schema.path) > 0 {
		if poolConfig, err = parseURL(url, cfg.Name, schema.path); err != nil {
			return nil, err
		}
		primaries.guard(poolConfig.ConnConfig)
	}
	if db.Standbys, err = standbys(ctx, cfg, schema.path); err != nil {
		return nil, err
	}
	if db.Pool, err = pgxpool.NewWithConfig(ctx, migrate.Within(poolConfig, cfg.Schema)); err != nil {
		return nil, err
	}
	if err := checkSchema(ctx, db.Pool, migrations); err != nil {
		return nil, err
	}
	if err := migrate.Up(ctx, db.Pool, cfg.Schema, migrations...); err != nil {
		return nil, err
	}
	if cfg.Foreign {
		return db, migrate.MayUse(ctx, db.Pool, migrations...)
	}
	return db, schema.claim(ctx, cfg.Name, migrations)
}

// Close closes the pool, then stops the private server and returns when that is gone. Running queries get 10 s.
func (db *DB) Close() {
	db.stop()
	if db.Pool != nil {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			for _, standby := range db.Standbys {
				standby.Close()
			}
			db.Pool.Close()
		}()
		select {
		case <-closed:
		case <-time.After(closeTimeout):
			db.logger.Warn("database connections are still in use at close", "acquired", db.Stat().AcquiredConns())
		}
	}
	if db.cluster != nil {
		db.cluster.Stop()
	}
}

// Remove deletes all data of the private server of cfg.Name. It fails while a service uses it.
func Remove(cfg Config) error {
	return cluster.Remove(filepath.Join(cmp.Or(cfg.Dir, DefaultDir), cfg.Name))
}
