// Package migrate makes and changes the tables of a database by numbered goose migrations in plain SQL.
package migrate

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc64"
	"io/fs"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

const (
	// Timeout bounds a set of migrations: an index on a large table takes its time.
	Timeout       = 30 * time.Minute
	unlockTimeout = 10 * time.Second
)

// SQLSTATE codes.
const (
	duplicateTable  = "42P07"
	duplicateSchema = "42P06"
	uniqueViolation = "23505" // two that create it at the same moment
)

// A Set is one numbered set of goose migrations in plain SQL.
type Set struct {
	Name string // the table goose_<Name> records its versions
	FS   fs.FS  // the root holds 00001_x.sql, 00002_y.sql ...
}

func (s Set) table() string { return "goose_" + s.Name }

type file struct {
	version int64
	text    []byte
}

// files reads the migrations, in the order of their versions.
func (s Set) files() (files []file, err error) {
	names, err := fs.Glob(s.FS, "*.sql")
	for _, name := range names {
		var f file
		if f.version, err = goose.NumericComponent(name); err != nil {
			return nil, err
		}
		if f.text, err = fs.ReadFile(s.FS, name); err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, err
}

// Up applies what is missing of each set, in the order given, to a schema, which it creates if it is missing. Without a
// name, it is the first schema of the pool's search_path. Several replicas may call Up at once: all but one wait, up to
// five minutes. A set may take 30 minutes. Up refuses tables of a later version than the set knows. If the role may not
// make or change the tables, the error is a [DeniedError].
func Up(ctx context.Context, pool *pgxpool.Pool, schema string, sets ...Set) error {
	if schema != "" {
		if err := create(ctx, pool, schema); err != nil {
			return fmt.Errorf("create the schema %s: %w", schema, err)
		}
		own, err := pgxpool.NewWithConfig(ctx, Within(pool.Config(), schema))
		if err != nil {
			return err
		}
		defer own.Close()
		pool = own
	}
	for _, s := range sets {
		err := s.up(ctx, pool)
		if err != nil {
			err = fmt.Errorf("migrate %s: %w", s.Name, err)
		}
		if isCode(err, insufficientPrivilege) {
			err = denied(ctx, pool, err, sets)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// create creates the schema if it is missing. A role that may not create one can use one that exists.
func create(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	var exists bool
	err := pool.QueryRow(ctx, `select exists (select from pg_namespace where nspname = $1)`, schema).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = pool.Exec(ctx, `create schema `+pgx.Identifier{schema}.Sanitize())
	if isCode(err, duplicateSchema) || isCode(err, uniqueViolation) {
		return nil
	}
	return err
}

// Within returns the configuration, changed so that its connections look for tables and functions in the schema first.
func Within(config *pgxpool.Config, schema string) *pgxpool.Config {
	if schema == "" {
		return config
	}
	within := func(ctx context.Context, conn *pgconn.PgConn) error {
		return conn.ExecParams(ctx, `select set_config('search_path', concat_ws(', ', $1::text, nullif(current_setting('search_path'), '')), false)`,
			[][]byte{[]byte(pgx.Identifier{schema}.Sanitize())}, nil, nil, nil).Read().Err
	}
	first, last := config.ConnConfig.AfterConnect, config.AfterConnect
	config.ConnConfig.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if first != nil {
			if err := first(ctx, conn); err != nil {
				return err
			}
		}
		return within(ctx, conn)
	}
	if last != nil { // it may choose a schema
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			if err := last(ctx, conn); err != nil {
				return err
			}
			return within(ctx, conn.PgConn())
		}
	}
	return config
}

// A sessionLocker bounds the time to release the lock, which goose does without the caller's deadline.
type sessionLocker struct{ lock.SessionLocker }

func (l sessionLocker) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, unlockTimeout)
	defer cancel()
	return l.SessionLocker.SessionUnlock(ctx, conn)
}

func (s Set) up(ctx context.Context, pool *pgxpool.Pool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	state, err := s.state(ctx, pool, "")
	if err != nil {
		return err
	}
	if state.has > state.last {
		return state.newer()
	}
	db := stdlib.OpenDBFromPool(pool)
	defer func() { err = errors.Join(err, db.Close()) }()
	key := crc64.Checksum([]byte(state.schema+"."+s.table()), crc64.MakeTable(crc64.ECMA))
	locker, err := lock.NewPostgresSessionLocker(
		lock.WithLockID(int64(key)), lock.WithLockTimeout(1, 300)) // one try per second
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, s.FS,
		goose.WithTableName(s.table()), goose.WithSessionLocker(sessionLocker{locker}), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	partial, ok := errors.AsType[*goose.PartialError](err)
	switch {
	case ok && isCode(err, duplicateTable):
		return fmt.Errorf("%s: %w; services that share a schema need tables with names of their own",
			partial.Failed.Source.Path, partial.Err)
	case ok:
		return fmt.Errorf("%s: %w", partial.Failed.Source.Path, partial.Err)
	}
	return err
}

func isCode(err error, code string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == code
}

// A state is how far a set was applied to a schema.
type state struct {
	schema    string
	has, last int64 // the version of the tables, 0 if there are none, and the last version of the set
}

func (s Set) state(ctx context.Context, pool *pgxpool.Pool, schema string) (at state, err error) {
	files, err := s.files()
	if err != nil {
		return at, err
	}
	for _, file := range files {
		at.last = max(at.last, file.version)
	}
	var there bool
	err = pool.QueryRow(ctx, `
		select schema, exists (select from pg_tables where schemaname = schema and tablename = $2)
		  from coalesce(nullif($1, ''), current_schema(), '') as schema`, schema, s.table()).Scan(&at.schema, &there)
	if err == nil && there {
		table := pgx.Identifier{at.schema, s.table()}
		err = pool.QueryRow(ctx, `select coalesce(max(version_id), 0) from `+table.Sanitize()).Scan(&at.has)
	}
	return at, err
}

func (s state) newer() error {
	return fmt.Errorf("the tables in the schema %s are of version %d, and this program knows versions up to %d: they are of a newer program, "+
		"or of one from before the first release, whose tables this one does not take over; use that program, or an empty database",
		s.schema, s.has, s.last)
}

// Check returns the name of the schema, which "" is as in [Up], and an error unless exactly the migrations of the set
// are applied to it.
func (s Set) Check(ctx context.Context, pool *pgxpool.Pool, schema string) (string, error) {
	state, err := s.state(ctx, pool, schema)
	switch {
	case err != nil:
	case state.has > state.last:
		err = state.newer()
	case state.has == 0:
		err = fmt.Errorf("the schema %s has none of the tables: migrate it first", cmp.Or(state.schema, "of search_path"))
	case state.has < state.last:
		err = fmt.Errorf("the tables in the schema %s are of version %d, and this program needs version %d: migrate them first",
			state.schema, state.has, state.last)
	}
	return state.schema, err
}

var (
	createTable = regexp.MustCompile(`(?im)^create (?:unlogged )?table (?:if not exists )?(\w+)`)
	keyed       = regexp.MustCompile(createTable.String() + ` \(\n(?:[^)\n].*\n|\n)*?.*\bprimary key\b`)
	createView  = regexp.MustCompile(`(?im)^create view (\w+)`)
)

// Tables returns the names of the tables that the migrations create. A shared schema may have others.
func Tables(sets ...Set) ([]string, error) { return found(createTable, sets) }

// Complete returns an error if a table that the migrations create with a primary key has none, as after a restore that
// ended early: keys are restored after all rows.
func Complete(ctx context.Context, pool *pgxpool.Pool, sets ...Set) error {
	tables, err := found(keyed, sets)
	if err != nil {
		return err
	}
	var lacking *string
	err = pool.QueryRow(ctx, `
		select string_agg(name, ', ') from unnest($1::text[]) as name
		 where not exists (select from pg_constraint where conrelid = to_regclass(name) and contype = 'p')`, tables).Scan(&lacking)
	if err == nil && lacking != nil {
		err = fmt.Errorf("tables without a primary key: %s; a restore of the database is under way, or has ended early: restore the whole dump", *lacking)
	}
	return err
}

// found returns the names that the pattern finds in the migrations.
func found(pattern *regexp.Regexp, sets []Set) (names []string, err error) {
	for _, s := range sets {
		files, err := s.files()
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			for _, match := range pattern.FindAllSubmatch(file.text, -1) {
				names = append(names, string(match[1]))
			}
		}
	}
	return names, nil
}
