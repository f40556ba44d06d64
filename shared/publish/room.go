package publish

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// noteRoom notes whether the last change failed since the server lacks something, such as room on its disk (SQLSTATE
// class 53), and returns err.
func (l *Log) noteRoom(err error) error {
	pgErr, refused := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		l.noRoom.Store(false)
	case refused && strings.HasPrefix(pgErr.Code, "53"):
		l.noRoom.Store(true)
	}
	return err
}

// Room returns nil if the database has room for changes, as far as it is known. After a change that failed for lack of it,
// Room looks whether there is some now: it writes some 300 kB to a table that it drops.
func (l *Log) Room(ctx context.Context) error {
	if !l.noRoom.Load() {
		return nil
	}
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `create temp table room on commit drop as select md5(n::text) from generate_series(1, 5000) as n`)
		return err
	})
	return l.noteRoom(err)
}
