package subscribe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	dbTimeout     = time.Minute // for one transaction, at the stop too
	maxRetryAfter = time.Hour   // the longest that a source can keep a reader away
)

// States of a copy.
const (
	Fresh    = "fresh"
	Stale    = "stale"    // two polls that were due have not succeeded: see Schedule.Stale
	Diverged = "diverged" // the source has another history than the copy
)

// A poller keeps the copy of one feed.
type poller struct {
	Feed
	pool           *pgxpool.Pool
	client         *feed.Client
	logger         *slog.Logger
	pageSize       int
	shownURL       string // URL without its password
	schedule       Schedule
	scheduleSource string // "default" or "environment"

	mu        sync.Mutex
	copied    progress  // as the database has it
	failures  int       // in a row
	lastError error     // of the last poll; nil if it succeeded
	nextPoll  time.Time // past while one runs
}

// progress is a row of the table subscription.
type progress struct {
	cursor       feed.Cursor
	etag         string
	etagURL      string
	headPosition int64
	asOf         time.Time // zero: never
	lastSuccess  time.Time // zero: never
}

// run polls at once and then on schedule, one poll at a time, until ctx ends.
func (p *poller) run(ctx context.Context) {
	defer p.client.Close()
	for {
		err := p.poll(ctx)
		if ctx.Err() != nil {
			return // and err says no more than that
		}
		next := p.after(err, time.Now())
		for wait := time.Until(next); wait > 0; wait = time.Until(next) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(wait, time.Minute)): // it does not know of a clock that is set or a machine that slept
			}
		}
	}
}

// after notes how a poll ended and gives the time of the next.
func (p *poller) after(err error, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.lastError
	p.lastError = err
	if err == nil {
		if was != nil {
			p.logger.Info("source answers again", "feed", p.Name, "failures", p.failures)
		}
		p.failures = 0
		p.nextPoll = p.schedule.Next(now)
		return p.nextPoll
	}
	p.failures++
	wait := p.schedule.backoff(p.failures, now)
	wait = wait/2 + rand.N(wait/2+1)
	if status := new(feed.StatusError); errors.As(err, &status) {
		wait += min(status.RetryAfter, maxRetryAfter) // and not all readers at the same instant
	}
	p.nextPoll = now.Add(wait)
	if was == nil || was.Error() != err.Error() {
		p.logger.Warn("poll failed", "feed", p.Name, "error", err, "next_poll_in", wait.Round(time.Millisecond))
	} else {
		p.logger.Debug("poll failed again", "feed", p.Name, "failures", p.failures, "next_poll_in", wait.Round(time.Millisecond))
	}
	return p.nextPoll
}

// poll asks for page after page until the copy is up to date. Each page is applied in a transaction of its own together
// with the cursor behind it, so that it can be broken off anywhere.
func (p *poller) poll(ctx context.Context) error {
	at, err := p.load(ctx)
	if err != nil {
		return err
	}
	for {
		ask := feed.Request{URL: p.shownURL, After: at.cursor, Limit: p.pageSize}
		url := ask.PageURL()
		if at.etagURL == url {
			ask.ETag = at.etag
		}
		ask.URL = p.URL
		answer, err := p.client.Get(ctx, ask)
		if err != nil {
			return err
		}
		next := at
		done := answer.Page == nil
		if page := answer.Page; page != nil {
			done = page.UpToDate
			next.cursor, next.etag, next.etagURL = page.Cursor, answer.ETag, url
			next.headPosition = page.Head.Position
			if page.Sealed { // which does not tell, but that a full page follows
				next.headPosition = max(at.headPosition, page.Cursor.Position+int64(p.pageSize))
			}
		}
		if done {
			next.asOf, next.lastSuccess = answer.AsOf, time.Now().UTC().Truncate(time.Millisecond)
		}
		if err := p.apply(ctx, answer.Page, at.cursor, next); err != nil {
			return err
		}
		if done {
			return nil
		}
		at = next
	}
}

// errFenced: somebody else moved the cursor.
var errFenced = errors.New("another process copies this feed into the same database")

// apply moves the cursor and applies the page (nil: nothing changed), both or neither. It is not broken off by ctx.
// The cursor goes first: a second process then waits for this one and is fenced before it does any work.
func (p *poller) apply(ctx context.Context, page *feed.Page, from feed.Cursor, to progress) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dbTimeout)
	defer cancel()
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			update subscription set cursor = $3, etag = $4, etag_url = $5, head_position = $6, as_of = $7, last_success_at = $8
			 where feed = $1 and cursor = $2`,
			p.Name, from.String(), to.cursor.String(), to.etag, to.etagURL, to.headPosition, timeOrNull(to.asOf), timeOrNull(to.lastSuccess))
		switch {
		case err != nil:
			return err
		case tag.RowsAffected() == 0:
			return errFenced
		case page == nil || len(page.Entries) == 0:
			return nil
		}
		return p.Apply(ctx, tx, NewBatch(page))
	})
	if err != nil {
		return fmt.Errorf("apply the page after %s: %w", from, err)
	}
	p.mu.Lock()
	p.copied = to
	p.mu.Unlock()
	if page != nil && len(page.Entries) > 0 {
		p.logger.Info("copied", "feed", p.Name, "entries", len(page.Entries), "cursor", to.cursor.String(), "behind", to.headPosition-to.cursor.Position)
	}
	return nil
}

// load reads the progress from the database, which alone knows it: of a commit whose connection was lost, too.
func (p *poller) load(ctx context.Context) (progress, error) {
	var at progress
	var cursor string
	var asOf, lastSuccess *time.Time
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	err := p.pool.QueryRow(ctx, `
		select cursor, etag, etag_url, head_position, as_of, last_success_at from subscription where feed = $1`, p.Name).
		Scan(&cursor, &at.etag, &at.etagURL, &at.headPosition, &asOf, &lastSuccess)
	if err != nil {
		return at, fmt.Errorf("read how far the copy of %s is: %w", p.Name, err)
	}
	if at.cursor, err = feed.ParseCursor(cursor); err != nil {
		return at, err
	}
	if asOf != nil && lastSuccess != nil {
		at.asOf, at.lastSuccess = asOf.UTC(), lastSuccess.UTC()
	}
	p.mu.Lock()
	p.copied = at
	p.mu.Unlock()
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
