package publish

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A querier is a pool or a connection of one's own.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// A look is what the database said of the heads.
type look struct {
	at       time.Time // when it was asked
	before   map[string]*tip
	heads    map[string]Head
	extends  map[string]bool // the feeds whose head extends the one remembered
	standby  bool            // a commit waits for a synchronous standby
	diverged bool            // some head does not extend the one remembered
	news     bool            // some head is not the one remembered
}

// isWhole is true of a row f of the table feed if its log ends where it says.
const isWhole = `(not exists (select from feed_entry where feed = f.name and position > f.position)
	and (f.position = 0 or exists (select from feed_entry where feed = f.name and position = f.position and digest = f.digest)))`

// errIncomplete: the tables do not belong together, as while a restore is under way, or after one of a part of a dump.
var errIncomplete = &web.Problem{
	Status: http.StatusServiceUnavailable, Detail: "The database is being restored, or was restored in part. Try again in a few seconds.",
	Header: http.Header{"Retry-After": {"5"}},
}

// errBehind: a hot standby, to which the connections may lead in a failover, has yet to replay what the primary has confirmed. Only
// a primary tells that the history is another one.
var errBehind = &web.Problem{
	Status: http.StatusServiceUnavailable, Detail: "The database is a standby that does not have all of the feed yet. Try again in a few seconds.",
	Header: http.Header{"Retry-After": {"5"}},
}

// look reads the heads, of a database that is whole and in which nothing is left of what the list says is erased.
func (l *Log) look(ctx context.Context, db querier) (seen *look, err error) {
	return seen, l.erased(ctx, func() (err error) {
		seen, err = l.readHeads(ctx, db)
		return err
	})
}

func (l *Log) readHeads(ctx context.Context, db querier) (*look, error) {
	l.mu.Lock()
	seen := &look{at: time.Now(), before: maps.Clone(l.tips), heads: map[string]Head{}, extends: map[string]bool{}}
	l.mu.Unlock()
	var names []string
	var positions []int64
	for name, t := range seen.before {
		names, positions = append(names, name), append(positions, t.Position)
	}
	rows, err := db.Query(ctx, `
		select f.name, f.position, f.digest, f.erasures, f.listed, `+isWhole+`, e.digest, current_setting('synchronous_standby_names') <> '',
		       pg_is_in_recovery()
		  from feed f left join unnest($1::text[], $2::bigint[]) as r (name, position) on r.name = f.name
		       left join feed_entry e on e.feed = r.name and e.position = r.position`, names, positions)
	if err != nil {
		return nil, err
	}
	var name string
	var position, erasures, listed int64
	var digest, at []byte
	var whole, recovering bool
	_, err = pgx.ForEachRow(rows, []any{&name, &position, &digest, &erasures, &listed, &whole, &at, &seen.standby, &recovering}, func() error {
		switch {
		case !whole:
			return fmt.Errorf("%w The log of feed %s does not end at position %d: restore all tables of one dump", errIncomplete, name, position)
		case !l.follows(listed):
			return errUnapplied
		}
		if len(digest) != len(feed.Digest{}) {
			return fmt.Errorf("the digest of feed %s has %d bytes", name, len(digest))
		}
		head, t := Head{position, feed.Digest(digest), erasures}, seen.before[name]
		seen.heads[name] = head
		seen.extends[name] = t == nil || t.Position == 0 || string(at) == string(t.Digest[:])
		seen.news = seen.news || t == nil || t.Head != head
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name := range seen.before {
		if _, there := seen.heads[name]; !there {
			return nil, fmt.Errorf("%w The feed %s is gone: restore all tables of one dump", errIncomplete, name)
		}
		seen.diverged = seen.diverged || !seen.extends[name]
	}
	if seen.diverged && recovering {
		return nil, errBehind
	}
	return seen, nil
}

// Read calls read with a connection to a database that has all that this process has acknowledged: a hot standby, to which
// connections may lead in a failover, that has yet to replay some of it is an error.
func (l *Log) Read(ctx context.Context, read func(conn *pgx.Conn) error) error {
	return l.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		if err := l.caughtUp(ctx, conn.Conn()); err != nil {
			return err
		}
		return read(conn.Conn())
	})
}

// caughtUp returns errBehind if the connection leads to a standby that is. A primary tells that it is one without being asked.
func (l *Log) caughtUp(ctx context.Context, conn *pgx.Conn) error {
	if conn.PgConn().ParameterStatus("in_hot_standby") == "off" {
		return nil
	}
	_, err := l.readHeads(ctx, conn)
	return err
}

// refresh reads the heads, and returns them as they are in the database. What this process remembers moves on with
// them. Where a head does not extend the one remembered, as after the restore of a backup, another history begins.
// Where commits wait for a synchronous standby, what is new counts only when it has confirmed a later commit: until
// then the error is errUnconfirmed, and what is remembered stays.
func (l *Log) refresh(ctx context.Context, db querier) (map[string]Head, error) {
	seen, err := l.look(ctx, db)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.standby = seen.standby; !seen.diverged {
		l.looked = seen.at
	}
	l.mu.Unlock()
	if seen.standby && (seen.news || seen.diverged) {
		if err := l.confirm(ctx); err != nil {
			return seen.heads, err
		}
	}
	l.takeOver(ctx, seen)
	return seen.heads, nil
}

// takeOver moves what is remembered on to the heads that were seen.
func (l *Log) takeOver(ctx context.Context, seen *look) {
	l.mu.Lock()
	defer l.mu.Unlock()
	diverged := false
	for name, t := range seen.before {
		if !seen.extends[name] && l.tips[name] == t { // else it was appended to in the meantime: the next look will tell
			l.logger.WarnContext(ctx, "the database has another history than before, as after the restore of a backup",
				"feed", name, "remembered", t.cursor.String(), "found", seen.heads[name].Cursor().String())
			delete(l.tips, name)
			close(t.moved)
			diverged = true
		}
	}
	for name, head := range seen.heads {
		if t := l.tips[name]; t == nil || seen.extends[name] && head.Position > t.Position {
			l.setTip(name, head, nil)
		}
	}
	l.looked = seen.at
	if diverged {
		l.epoch++
		for name, t := range l.tips {
			l.setTip(name, t.Head, nil)
		}
		l.pool.Reset() // what its connections know of the schema may be of the other history, too
		l.resetPools()
	}
}
