package publish

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// lacking are the SQLSTATE codes, or their beginnings, of a server that may lack room on its disk or another resource.
// It reports an exhausted quota as an internal error, and transaction ids that have run out as a row that is too large.
var lacking = []string{"53", "54000", "58", "XX000"}

func lacks(err *pgconn.PgError) bool {
	return slices.ContainsFunc(lacking, func(class string) bool { return strings.HasPrefix(err.Code, class) })
}

// noteRoom notes whether the last change failed for lack of a resource, and returns err.
func (l *Log) noteRoom(err error) error {
	pgErr, refused := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		l.noRoom.Store(false)
	case refused && lacks(pgErr):
		l.noRoom.Store(true)
	}
	return err
}

// Room returns nil if the database has room for changes, as far as this process knows. After a change that failed for
// lack of room, it checks whether there is room now: it writes some 300 kB to a table that it drops.
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
