package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// migrateTimeout bounds one set of migrations, which may build an index on a large table.
const migrateTimeout = 30 * time.Minute

// Migrations is a numbered set of goose migrations in plain SQL.
type Migrations struct {
	Name string // the table goose_<Name> records its versions
	FS   fs.FS  // the root holds 00001_x.sql, 00002_y.sql ...
}

// Migrate applies the missing migrations of each set, in the order given. Replicas may call it concurrently: all but
// one wait, up to five minutes. A set may take 30 minutes.
func Migrate(ctx context.Context, pool *pgxpool.Pool, migrations ...Migrations) error {
	for _, m := range migrations {
		if err := m.apply(ctx, pool); err != nil {
			return fmt.Errorf("migrate %s: %w", m.Name, err)
		}
	}
	return nil
}

// A sessionLocker bounds the time to release the lock, which goose does without the caller's deadline.
type sessionLocker struct{ lock.SessionLocker }

func (l sessionLocker) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return l.SessionLocker.SessionUnlock(ctx, conn)
}

func (m Migrations) apply(ctx context.Context, pool *pgxpool.Pool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	db := stdlib.OpenDBFromPool(pool)
	defer func() { err = errors.Join(err, db.Close()) }()
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300)) // one try per second
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, m.FS,
		goose.WithTableName("goose_"+m.Name), goose.WithSessionLocker(sessionLocker{locker}), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	partial, ok := errors.AsType[*goose.PartialError](err)
	switch {
	case ok && sqlState(err) == duplicateTable:
		return fmt.Errorf("%s: %w; services that share a schema need tables with names of their own",
			partial.Failed.Source.Path, partial.Err)
	case ok:
		return fmt.Errorf("%s: %w", partial.Failed.Source.Path, partial.Err)
	}
	return err
}

var createTable = regexp.MustCompile(`(?im)^create table (?:if not exists )?(\w+)`)

// Tables returns the names of the tables that the migrations create. A shared schema may have others.
func Tables(migrations ...Migrations) ([]string, error) {
	var tables []string
	for _, m := range migrations {
		files, err := fs.Glob(m.FS, "*.sql")
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := fs.ReadFile(m.FS, file)
			if err != nil {
				return nil, err
			}
			for _, found := range createTable.FindAllSubmatch(text, -1) {
				tables = append(tables, string(found[1]))
			}
		}
	}
	return tables, nil
}
