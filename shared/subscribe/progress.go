package subscribe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// progress is how far the copy of a feed is, as the database has it, and what was set at run time.
type progress struct {
	cursor       feed.Cursor
	etag         string
	etagURL      string
	headPosition int64
	past         *int64    // nil: not seen yet; see Batch.Past
	asOf         time.Time // zero: never
	lastSuccess  time.Time // zero: never
	failingSince time.Time // the first failure after the last success; zero: there was none
	stale        bool      // it was seen to be stale, and no poll has succeeded since

	setting
	resync resyncProgress

	generation   int
	resyncedAt   time.Time // zero: never
	resyncReason string
	rejected     int // entries
}

// A setting is what was set at run time.
type setting struct {
	schedule *string // nil: not set
	wait     *time.Duration
	pageSize *int
	tunedAt  time.Time // when schedule or wait were last changed; zero: never
	paused   bool
}

// resyncProgress is how far a resync is.
type resyncProgress struct {
	underWay        bool
	cursor, history feed.Cursor
	reason          string
	since           time.Time
}

// set takes over what others than the poll under way change.
func (at *progress) set(other progress) {
	at.setting, at.resync, at.rejected = other.setting, other.resync, other.rejected
	if at.lastSuccess.Equal(other.lastSuccess) { // else a poll has succeeded since
		at.stale = at.stale || other.stale
	}
}

const selectProgress = `
	select feed, cursor, etag, etag_url, head_position, as_of, last_success_at, schedule, wait_seconds, page_size, paused,
	       walk_cursor, walk_history, walk_reason, walk_since, generation, resynced_at, resync_reason, past,
	       failing_since, tuned_at, stale or stale_tuned is not distinct from coalesce(last_success_at, '-infinity'),
	       (select count(*) from rejected_entry r where r.service = s.service and r.feed = s.feed)
	  from subscription s join subscription_setting using (service, feed)
	 where service = $1`

func scanProgress(row pgx.CollectableRow) (name string, at progress, err error) {
	var cursor, walkHistory string
	var asOf, lastSuccess, walkSince, resyncedAt, failingSince, tunedAt *time.Time
	var walk *string
	var wait *int
	err = row.Scan(&name, &cursor, &at.etag, &at.etagURL, &at.headPosition, &asOf, &lastSuccess, &at.schedule, &wait, &at.pageSize, &at.paused,
		&walk, &walkHistory, &at.resync.reason, &walkSince, &at.generation, &resyncedAt, &at.resyncReason, &at.past,
		&failingSince, &tunedAt, &at.stale, &at.rejected)
	if err != nil {
		return name, at, err
	}
	if wait != nil {
		d := time.Duration(*wait) * time.Second
		at.wait = &d
	}
	at.asOf, at.lastSuccess, at.resync.since, at.resyncedAt = timeOrZero(asOf), timeOrZero(lastSuccess), timeOrZero(walkSince), timeOrZero(resyncedAt)
	at.failingSince, at.tunedAt = timeOrZero(failingSince), timeOrZero(tunedAt)
	if at.cursor, err = feed.ParseCursor(cursor); err != nil {
		return name, at, err
	}
	if walk == nil {
		return name, at, nil
	}
	at.resync.underWay = true
	if at.resync.cursor, err = feed.ParseCursor(*walk); err != nil {
		return name, at, err
	}
	at.resync.history, err = feed.ParseCursor(walkHistory)
	return name, at, err
}

// load reads the progress from the database, which alone knows it: of a commit whose connection was lost, too.
func (p *poller) load(ctx context.Context) (progress, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	p.reading.Lock()
	defer p.reading.Unlock()
	rows, err := p.pool.Query(ctx, selectProgress+` and feed = $2`, p.service, p.Name)
	if err != nil {
		return progress{}, fmt.Errorf("read how far the copy of %s is: %w", p.Name, err)
	}
	at, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (progress, error) {
		_, at, err := scanProgress(row)
		return at, err
	})
	if err != nil {
		return at, fmt.Errorf("read how far the copy of %s is: %w", p.Name, err)
	}
	p.take(at)
	return at, nil
}

// create makes the subscription's rows if this is the first start. It fails if another subscription keeps its copy in the same
// table: each would take the other's rows for its own. A table that takes the place of another one may be empty: the feed is
// read anew for it. Where there is nothing to change nothing is written, not even a lock of a row: a commit that writes waits for
// a synchronous standby, and the copy can be served without it.
func (p *poller) create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	var b pgx.Batch
	b.Queue(`
		update subscription set walk_cursor = '0', walk_history = '0', walk_since = now(),
		       walk_reason = 'The copy has another table now.'
		 where service = $1 and feed = $2 and table_name <> $3 and walk_cursor is null`, p.service, p.Name, p.Table)
	b.Queue(`
		insert into subscription (service, feed, table_name)
		select $1, $2, $3 where not exists (select from subscription where service = $1 and feed = $2 and table_name = $3)
		on conflict (service, feed) do update set table_name = excluded.table_name`,
		p.service, p.Name, p.Table)
	b.Queue(`insert into subscription_setting (service, feed) values ($1, $2) on conflict do nothing`, p.service, p.Name)
	err := p.pool.SendBatch(ctx, &b).Close()
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == uniqueViolation {
		return p.tableTaken(ctx, err)
	}
	return err
}

// tableTaken returns an error that says which subscription has the table.
func (p *poller) tableTaken(ctx context.Context, err error) error {
	var service, feed string
	row := p.pool.QueryRow(ctx, `select service, feed from subscription where table_name = $1`, p.Table)
	if row.Scan(&service, &feed) != nil {
		return err
	}
	return fmt.Errorf("the table %s holds the copy of %s that the service %s keeps in the same database; "+
		"give each service tables of its own, or a database of its own (if that service has been renamed to %s: "+
		"update subscription set service = '%s' where service = '%s')", p.Table, feed, service, p.service, p.service, service)
}

// takeOver makes the rows the service's that it had before several services could share a database: see sql/subscribe/00004.
func (p *poller) takeOver(ctx context.Context, migrations string) error {
	_, err := p.pool.Exec(ctx, `update subscription set service = $1 where service in ('?', '?' || $2) and feed = $3`,
		p.service, migrations, p.Name)
	return err
}

const uniqueViolation = "23505"

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func timeOrZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Millisecond)
}
