package subscribe

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// progress is how far the copy of a feed is, and its settings, as stored in the database.
type progress struct {
	cursor       feed.Cursor
	etag         string
	etagURL      string
	headPosition int64
	past         *int64    // nil means that the end was not seen yet; see Batch.Past
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
	schedule *string // nil means not set
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

// set takes over what others have changed since the poll under way began.
func (at *progress) set(other progress) {
	at.setting, at.resync, at.rejected = other.setting, other.resync, other.rejected
	if at.lastSuccess.Equal(other.lastSuccess) { // else a poll has succeeded since
		at.stale = at.stale || other.stale
	}
}

const selectProgress = `
	select feed, cursor, etag, etag_url, head_position, as_of, last_success_at, schedule, wait_seconds, page_size, paused,
	       resync_cursor, resync_history, resync_reason, resync_since, generation, resynced_at, resynced_reason, past,
	       failing_since, tuned_at, stale or stale_tuned is not distinct from coalesce(last_success_at, '-infinity'),
	       (select count(*) from rejected_entry r where r.service = s.service and r.feed = s.feed)
	  from subscription s join subscription_setting using (service, feed)
	 where service = $1`

func scanProgress(row pgx.CollectableRow) (name string, at progress, err error) {
	var cursor, history string
	var asOf, lastSuccess, resyncSince, resyncedAt, failingSince, tunedAt *time.Time
	var resync *string
	var wait *int
	err = row.Scan(&name, &cursor, &at.etag, &at.etagURL, &at.headPosition, &asOf, &lastSuccess, &at.schedule, &wait, &at.pageSize, &at.paused,
		&resync, &history, &at.resync.reason, &resyncSince, &at.generation, &resyncedAt, &at.resyncReason, &at.past,
		&failingSince, &tunedAt, &at.stale, &at.rejected)
	if err != nil {
		return name, at, err
	}
	if wait != nil {
		d := time.Duration(*wait) * time.Second
		at.wait = &d
	}
	at.asOf, at.lastSuccess, at.resync.since, at.resyncedAt = timeOrZero(asOf), timeOrZero(lastSuccess), timeOrZero(resyncSince), timeOrZero(resyncedAt)
	at.failingSince, at.tunedAt = timeOrZero(failingSince), timeOrZero(tunedAt)
	if at.cursor, err = feed.ParseCursor(cursor); err != nil {
		return name, at, err
	}
	if resync == nil {
		return name, at, nil
	}
	at.resync.underWay = true
	if at.resync.cursor, err = feed.ParseCursor(*resync); err != nil {
		return name, at, err
	}
	at.resync.history, err = feed.ParseCursor(history)
	return name, at, err
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
