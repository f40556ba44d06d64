package subscribe

import (
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A place is how far a feed is read: where a replay goes on or, while the cursor is the start, a snapshot. Without
// snapshot, none is under way.
type place struct {
	cursor   feed.Cursor
	snapshot feed.SnapshotPlace
}

// placeAfter returns the place after a page.
func placeAfter(page *feed.Page) place {
	if page.More != nil {
		return place{snapshot: *page.More}
	}
	return place{cursor: page.Cursor}
}

// inSnapshot reports whether a snapshot is under way.
func (p *place) inSnapshot() bool { return p.cursor.IsStart() && !p.snapshot.Head.IsStart() }

func (p *place) String() string {
	if p.inSnapshot() {
		return "the entity " + p.snapshot.From.String() + " of the snapshot at " + p.snapshot.Head.String()
	}
	return p.cursor.String()
}

// currentSnapshot is the column snapshot of a subscription, if it is of the first copy or resync under way.
const currentSnapshot = `case when snapshot_since is not distinct from resync_since then snapshot end`

// currentLost is the column lost_after of a subscription, if it is of the resync under way.
const currentLost = `case when lost_since = resync_since then lost_after end`

// columns returns the place as the database stores it.
func (p *place) columns() (cursor string, snapshot *string) {
	if cursor = p.cursor.String(); p.snapshot.Head.IsStart() {
		return cursor, nil
	}
	text := p.snapshot.Head.String() + "/" + p.snapshot.From.String()
	return cursor, &text
}

// parsePlace is the reverse of columns.
func parsePlace(cursor string, snapshot *string) (p place, err error) {
	if p.cursor, err = feed.ParseCursor(cursor); err != nil || snapshot == nil {
		return p, err
	}
	head, from, _ := strings.Cut(*snapshot, "/")
	if p.snapshot.Head, err = feed.ParseCursor(head); err == nil {
		p.snapshot.From, err = uuid.Parse(from)
	}
	return p, err
}

// progress is how far the copy of a feed is, and its settings, as stored in the database.
type progress struct {
	place
	etag         string
	etagURL      string
	headPosition int64
	compacted    feed.Cursor // of superseded entries that the copy or the resync has skipped, until confirmed; see fetcher.confirm
	past         *int64      // nil means that the end was not seen yet; see Batch.Past
	asOf         time.Time   // zero: never
	lastSuccess  time.Time   // zero: never
	failingSince time.Time   // the first failure after the last success; zero: there was none
	stale        bool        // it was seen to be stale, and no poll has succeeded since

	setting
	resync resyncProgress
	lastResync
	rejected int // entries
}

// A lastResync is the last resync that has ended.
type lastResync struct {
	generation   int
	resyncedAt   time.Time // zero: never
	resyncReason string
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
	underWay bool
	place    // the snapshot is then not that of the copy
	history  feed.Cursor
	reason   string
	since    time.Time
	lost     feed.Cursor // the resync is of the lost end of the feed, which begins here; zero means of the whole feed
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
	       (select count(*) from rejected_entry r where r.service = s.service and r.feed = s.feed), ` + currentSnapshot + `,
	       coalesce(compacted, '0'), coalesce(` + currentLost + `, '0')
	  from subscription s join subscription_setting using (service, feed)
	 where service = $1`

func scanProgress(row pgx.CollectableRow) (name string, at progress, err error) {
	var cursor, history, compacted, lost string
	var asOf, lastSuccess, resyncSince, resyncedAt, failingSince, tunedAt *time.Time
	var resync, snapshot *string
	var wait *int
	err = row.Scan(&name, &cursor, &at.etag, &at.etagURL, &at.headPosition, &asOf, &lastSuccess, &at.schedule, &wait, &at.pageSize, &at.paused,
		&resync, &history, &at.resync.reason, &resyncSince, &at.generation, &resyncedAt, &at.resyncReason, &at.past,
		&failingSince, &tunedAt, &at.stale, &at.rejected, &snapshot, &compacted, &lost)
	if err == nil {
		at.compacted, err = feed.ParseCursor(compacted)
	}
	if err == nil {
		at.resync.lost, err = feed.ParseCursor(lost)
	}
	if err != nil {
		return name, at, err
	}
	if wait != nil {
		d := time.Duration(*wait) * time.Second
		at.wait = &d
	}
	at.asOf, at.lastSuccess, at.resync.since, at.resyncedAt = timeOrZero(asOf), timeOrZero(lastSuccess), timeOrZero(resyncSince), timeOrZero(resyncedAt)
	at.failingSince, at.tunedAt = timeOrZero(failingSince), timeOrZero(tunedAt)
	if resync == nil {
		at.place, err = parsePlace(cursor, snapshot)
		return name, at, err
	}
	if at.cursor, err = feed.ParseCursor(cursor); err != nil {
		return name, at, err
	}
	at.resync.underWay = true
	if at.resync.place, err = parsePlace(*resync, snapshot); err != nil {
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
