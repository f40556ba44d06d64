package publish

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A querier is a pool or a connection.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// A look is a reading of the heads from the database.
type look struct {
	at       time.Time // when it was read
	before   map[string]*Snapshot
	heads    map[string]Head
	extends  map[string]bool        // the feeds whose head extends the one remembered
	kept     map[string]feed.Cursor // of the other feeds, the last place that the database still has
	standby  bool                   // a commit waits for a synchronous standby
	diverged bool                   // some head does not extend the one remembered
	news     bool                   // some head is not the one remembered
}

// look reads the heads. It fails if the database is incomplete, or has something that the list says is erased.
func (l *Log) look(ctx context.Context, db querier) (seen *look, err error) {
	return seen, l.withListApplied(ctx, func() (err error) {
		seen, err = l.readHeads(ctx, db)
		return err
	})
}

func (l *Log) readHeads(ctx context.Context, db querier) (*look, error) {
	l.mu.Lock()
	seen := &look{at: time.Now(), before: maps.Clone(l.snapshots), heads: map[string]Head{}, extends: map[string]bool{}, kept: map[string]feed.Cursor{}}
	l.mu.Unlock()
	var names []string
	var positions []int64
	for name, t := range seen.before {
		names, positions = append(names, name), append(positions, t.Position)
	}
	rows, err := db.Query(ctx, `
		select f.name, f.position, f.digest, f.erasures, f.compaction, f.listed, f.is_whole, e.digest, current_setting('synchronous_standby_names') <> '',
		       pg_is_in_recovery()
		  from feed_head f left join unnest($1::text[], $2::bigint[]) as r (name, position) on r.name = f.name
		       left join feed_entry e on e.feed = r.name and e.position = r.position`, names, positions)
	if err != nil {
		return nil, err
	}
	var name string
	var position, erasures, listed int64
	var digest, at []byte
	var compaction Compaction
	var whole, recovering bool
	_, err = pgx.ForEachRow(rows, []any{&name, &position, &digest, &erasures, &compaction, &listed, &whole, &at, &seen.standby, &recovering}, func() error {
		switch {
		case !whole:
			return fmt.Errorf("%w The log of feed %s lacks an entry that it had: restore all tables of one dump", ErrIncomplete, name)
		case !l.follows(listed):
			return ErrUnapplied
		}
		if len(digest) != len(feed.Digest{}) {
			return fmt.Errorf("the digest of feed %s has %d bytes", name, len(digest))
		}
		head, t := Head{position, feed.Digest(digest), erasures, compaction}, seen.before[name]
		seen.heads[name] = head
		seen.extends[name] = t == nil || t.Position == 0 || string(at) == string(t.Digest[:])
		if t != nil && seen.extends[name] && erasures < t.Erasures {
			return fmt.Errorf("%w The table feed counts fewer erasures of feed %s than before: restore all tables of one dump", ErrIncomplete, name)
		}
		seen.news = seen.news || t == nil || t.Head != head
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name := range seen.before {
		if _, there := seen.heads[name]; !there {
			return nil, fmt.Errorf("%w The feed %s is gone: restore all tables of one dump", ErrIncomplete, name)
		}
		seen.diverged = seen.diverged || !seen.extends[name]
	}
	if seen.diverged && recovering {
		return nil, ErrBehind
	}
	for name := range seen.before {
		if !seen.extends[name] {
			if seen.kept[name], err = l.lastKnown(ctx, db, name); err != nil {
				return nil, err
			}
		}
	}
	return seen, nil
}

// Read calls read with a connection to a database that has everything that this process has acknowledged. It fails if
// the connection leads to a hot standby that has yet to replay some of it, as in a failover.
func (l *Log) Read(ctx context.Context, read func(conn *pgx.Conn) error) error {
	return l.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		if err := l.caughtUp(ctx, conn.Conn()); err != nil {
			return err
		}
		return read(conn.Conn())
	})
}

// caughtUp returns ErrBehind if the connection leads to a standby that is behind. A primary identifies itself when a
// connection is made, so it is not queried.
func (l *Log) caughtUp(ctx context.Context, conn *pgx.Conn) error {
	if conn.PgConn().ParameterStatus("in_hot_standby") == "off" {
		return nil
	}
	_, err := l.readHeads(ctx, conn)
	return err
}

// refresh reads the heads from the database, returns them, and updates what this process remembers. If a head does not
// extend the remembered one, as after the restore of a backup, another history begins. If commits wait for a
// synchronous standby, new heads count only after the standby has confirmed a later commit: until then refresh returns
// errUnconfirmed, with the heads, and keeps the remembered ones.
func (l *Log) refresh(ctx context.Context, db querier) (map[string]Head, error) {
	seen, err := l.look(ctx, db)
	l.away.Store(isAway(err))
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.standby = seen.standby; !seen.diverged {
		l.looked = seen.at
	}
	l.mu.Unlock()
	if seen.standby && (seen.news || seen.diverged) {
		if err := l.confirmations.wait(ctx); err != nil {
			return seen.heads, err
		}
	}
	if l.takeOver(ctx, seen, l.logger) {
		l.reset()
	}
	return seen.heads, nil
}

// takeOver updates what is remembered by the heads that were read. It reports whether they are of another history.
func (m *memory) takeOver(ctx context.Context, seen *look, logger *slog.Logger) (diverged bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, t := range seen.before {
		if !seen.extends[name] && m.snapshots[name] == t { // else the feed was appended to meanwhile: the next reading shows it
			loss := m.loses(name, seen.kept[name], t.Cursor(), seen.heads[name].Position)
			logger.ErrorContext(ctx, "entries are lost: the database has another history than before, as after the restore of a backup or a failover "+
				"without its last commits", "feed", name, "at_least", loss.AtLeast, "at_most", loss.AtMost, "after", loss.After.String(), "remembered", loss.Until.String(),
				"found", seen.heads[name].Cursor().String())
			delete(m.snapshots, name)
			close(t.moved)
			diverged = true
		}
	}
	for name, head := range seen.heads {
		t := m.snapshots[name]
		switch {
		case t == nil || seen.extends[name] && head.Position > t.Position:
			m.setSnapshot(name, head, nil)
		case seen.extends[name] && head.Compaction != t.Compaction:
			compacted := t.Head
			compacted.Compaction = head.Compaction
			m.setSnapshot(name, compacted, nil)
		}
	}
	m.looked = seen.at
	if diverged {
		m.epoch++
		for name, t := range m.snapshots {
			m.setSnapshot(name, t.Head, nil)
		}
	}
	return diverged
}
