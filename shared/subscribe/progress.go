package subscribe

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// progress is a row of the table subscription.
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

	schedule *string // set at run time; nil: not set
	wait     *time.Duration
	pageSize *int
	tunedAt  time.Time // when schedule or wait were last changed; zero: never
	paused   bool

	walking     bool // the feed is being read anew
	walk        feed.Cursor
	walkHistory feed.Cursor
	walkReason  string
	walkSince   time.Time

	generation   int
	resyncedAt   time.Time // zero: never
	resyncReason string
	rejected     int // entries
}

// set takes over what others than the poll under way change.
func (at *progress) set(other progress) {
	at.schedule, at.wait, at.pageSize, at.paused, at.rejected = other.schedule, other.wait, other.pageSize, other.paused, other.rejected
	at.tunedAt = other.tunedAt
	if at.lastSuccess.Equal(other.lastSuccess) { // else a poll has succeeded since
		at.stale = at.stale || other.stale
	}
	at.walking, at.walk, at.walkHistory, at.walkReason, at.walkSince = other.walking, other.walk, other.walkHistory, other.walkReason, other.walkSince
}

const selectProgress = `
	select feed, cursor, etag, etag_url, head_position, as_of, last_success_at, schedule, wait_seconds, page_size, paused,
	       walk_cursor, walk_history, walk_reason, walk_since, generation, resynced_at, resync_reason, past,
	       failing_since, tuned_at, stale,
	       (select count(*) from rejected_entry r where r.feed = s.feed)
	  from subscription s`

func scanProgress(row pgx.CollectableRow) (name string, at progress, err error) {
	var cursor, walkHistory string
	var asOf, lastSuccess, walkSince, resyncedAt, failingSince, tunedAt *time.Time
	var walk *string
	var wait *int
	err = row.Scan(&name, &cursor, &at.etag, &at.etagURL, &at.headPosition, &asOf, &lastSuccess, &at.schedule, &wait, &at.pageSize, &at.paused,
		&walk, &walkHistory, &at.walkReason, &walkSince, &at.generation, &resyncedAt, &at.resyncReason, &at.past,
		&failingSince, &tunedAt, &at.stale, &at.rejected)
	if err != nil {
		return name, at, err
	}
	if wait != nil {
		d := time.Duration(*wait) * time.Second
		at.wait = &d
	}
	at.asOf, at.lastSuccess, at.walkSince, at.resyncedAt = timeOrZero(asOf), timeOrZero(lastSuccess), timeOrZero(walkSince), timeOrZero(resyncedAt)
	at.failingSince, at.tunedAt = timeOrZero(failingSince), timeOrZero(tunedAt)
	if at.cursor, err = feed.ParseCursor(cursor); err != nil {
		return name, at, err
	}
	if walk == nil {
		return name, at, nil
	}
	at.walking = true
	if at.walk, err = feed.ParseCursor(*walk); err != nil {
		return name, at, err
	}
	at.walkHistory, err = feed.ParseCursor(walkHistory)
	return name, at, err
}

// load reads the progress from the database, which alone knows it: of a commit whose connection was lost, too.
func (p *poller) load(ctx context.Context) (progress, error) {
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	p.reading.Lock()
	defer p.reading.Unlock()
	rows, err := p.pool.Query(ctx, selectProgress+` where feed = $1`, p.Name)
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

// create makes the subscription's row if this is the first start.
func (p *poller) create(ctx context.Context) error {
	_, err := p.pool.Exec(ctx, `insert into subscription (feed) values ($1) on conflict do nothing`, p.Name)
	return err
}

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
