package publish

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	quickLook    = 5 * time.Millisecond   // between two looks for what SQL has published, while a reader waits
	slowLook     = 100 * time.Millisecond // the same while none does
	waitsFor     = 31 * time.Second       // a reader waits no longer before it asks again
	moveTimeout  = 10 * time.Second       // for one batch
	maxMoved     = 1000                   // entries that are appended at once
	backfillLogs = 10 * time.Second       // between two lines on the progress of a backfill
)

// A mover appends what tables that are attached have staged, runs their backfills, and notices what SQL has published.
// Several processes may have one each.
type mover struct {
	*Log
	conn  *pgx.Conn
	told  time.Time       // when the last line on a backfill was logged
	stuck map[string]bool // what does not go on, and is logged
}

// move does the work of a mover until ctx ends.
func (l *Log) move(ctx context.Context) {
	for quiet := false; ctx.Err() == nil; sleep(ctx, headInterval) {
		err := l.moveUntilLost(ctx, &quiet)
		if ctx.Err() == nil && !quiet {
			l.logger.WarnContext(ctx, "what SQL publishes is not looked for", "error", err)
			quiet = true
		}
	}
}

// moveUntilLost uses one connection until an error. It resets quiet when something has succeeded.
func (l *Log) moveUntilLost(ctx context.Context, quiet *bool) error {
	connecting, cancel := context.WithTimeout(ctx, refreshTimeout)
	conn, err := l.dial(connecting, true)
	cancel()
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	if _, err := conn.Exec(ctx, ofCommitters+`; set lock_timeout = '`+lockTimeout+`'`); err != nil {
		return err
	}
	m := mover{Log: l, conn: conn, stuck: map[string]bool{}}
	for ctx.Err() == nil {
		busy, err := m.round(ctx)
		if err != nil {
			return err
		}
		switch *quiet = false; {
		case busy:
		case l.awaited():
			sleep(ctx, quickLook)
		default:
			sleep(ctx, slowLook)
		}
	}
	return ctx.Err()
}

// awaited reports whether a reader may be waiting for something new.
func (m *memory) awaited() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.snapshots {
		if time.Now().UnixNano()-s.awaited.Load() < int64(waitsFor) {
			return true
		}
	}
	return false
}

// round looks once at all feeds. It reports whether there is more to do at once.
func (m *mover) round(ctx context.Context) (busy bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	var name string
	var position int64
	var age *float64
	var filling bool
	var staged, fill []string
	heads := map[string]int64{}
	rows, err := m.conn.Query(ctx, `
		select name, position, extract(epoch from clock_timestamp() - s.staged_at)::float8, b.feed is not null
		  from feed_head left join lateral (select staged_at from feed_staged where feed = name order by seq limit 1) as s on true
		       left join feed_backfill b on b.feed = name and b.finished_at is null
		 where not pg_is_in_recovery()`)
	if err != nil {
		return false, err
	}
	oldest := 0.0
	_, err = pgx.ForEachRow(rows, []any{&name, &position, &age, &filling}, func() error {
		if heads[name] = position; age != nil {
			staged, oldest = append(staged, name), max(oldest, *age)
		}
		if filling {
			fill = append(fill, name)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	m.metrics.staged.Set(oldest)
	moved := false
	for _, name := range staged {
		var n int
		err := m.conn.QueryRow(ctx, `select feed_move($1, $2)`, name, maxMoved).Scan(&n)
		if isCode(err, lockNotAvailable) { // the next look tries again
			continue
		}
		if _, err := m.goesOn(ctx, "staged", name, err); err != nil {
			return false, err
		}
		moved, busy = moved || n > 0, busy || n == maxMoved
	}
	for _, name := range fill {
		n, err := m.backfill(ctx, name)
		if err != nil {
			return false, err
		}
		moved, busy = moved || n > 0, busy || n > 0
	}
	for name, position := range heads {
		if t, _ := m.remembered(name); t == nil || position > t.Position {
			moved = true
		}
	}
	if !moved {
		return busy, nil
	}
	m.peers.tell()
	if _, err = m.refresh(ctx, m.conn); errors.Is(err, errUnconfirmed) {
		err = nil // the next look waits for it again
	}
	return busy, err
}

// backfill publishes the next rows of a table, and returns how many. The log and the table feed_backfill tell an error
// of the rows, which only somebody can mend, and the table what is locked.
func (m *mover) backfill(ctx context.Context, name string) (rows int, err error) {
	var n *int
	var all int64
	err = m.conn.QueryRow(ctx, `select feed_backfill_step($1, $2)`, name, maxMoved).Scan(&n)
	text := "Somebody has locked the table or the feed."
	if !isCode(err, lockNotAvailable) { // else the next look tries again
		text, err = m.goesOn(ctx, "backfill", name, err)
	}
	if text != "" {
		_, err = m.conn.Exec(ctx, `
			update feed_backfill set error = $2
			 where feed = (select feed from feed_backfill where feed = $1 and error is distinct from $2 for update skip locked)`, name, text)
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	if n != nil && time.Since(m.told) < backfillLogs {
		return *n, nil
	}
	var took float64
	var refused int
	m.told = time.Now()
	err = m.conn.QueryRow(ctx, `
		select rows, cardinality(refused), extract(epoch from clock_timestamp() - begun_at)::float8 from feed_backfill where feed = $1`, name).Scan(&all, &refused, &took)
	if err != nil {
		return 0, err
	}
	if n == nil {
		m.logger.InfoContext(ctx, "a backfill is complete", "feed", name, "rows", all, "refused", refused, "seconds", int(took))
		return 0, nil
	}
	m.logger.InfoContext(ctx, "a backfill goes on", "feed", name, "rows", all, "refused", refused)
	return *n, nil
}

// goesOn logs the first of the errors that keep a feed from going on, and returns its text: the other feeds go on. An
// error that is returned is one of the connection.
func (m *mover) goesOn(ctx context.Context, what, name string, err error) (text string, _ error) {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || connectionLost(err) {
		delete(m.stuck, what+name)
		return "", err
	}
	text = strings.TrimSpace(pgErr.Message + " " + pgErr.Hint)
	if !m.stuck[what+name] {
		m.logger.ErrorContext(ctx, "a feed does not go on", "what", what, "feed", name, "error", text)
		m.stuck[what+name] = true
	}
	return text, nil
}
