package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	dbTimeout     = time.Minute // for one transaction, at the stop too
	maxRetryAfter = time.Hour   // the longest that a source can keep a reader away
	maxWait       = 30 * time.Second
	progressEvery = 5 * time.Second // of the log while much is copied
)

// States of a copy.
const (
	Fresh     = "fresh"
	Stale     = "stale"     // two polls that were due have not succeeded: see Schedule.Stale
	Resyncing = "resyncing" // the feed is read anew, while the copy serves as it is
	Diverged  = "diverged"  // the source has another history than the copy, and reading it anew failed
	Paused    = "paused"
)

// A poller keeps the copy of one feed.
type poller struct {
	Feed
	pool     *pgxpool.Pool
	client   *feed.Client
	logger   *slog.Logger
	service  string
	shownURL string // URL without its password
	given    tuning // by the environment, or the defaults
	metrics  *pollerMetrics

	wake chan struct{} // something is to be done, or to be done otherwise

	reading sync.Mutex // held from when the row is read until it is taken over: an older reading must not come later

	mu        sync.Mutex
	copied    progress // as the database has it
	tuned     tuning
	standby   bool // another process polls
	succeeded bool // the last poll did
	waits     bool // the source holds requests that wait, as it did with the last of them
	tried     bool // there was such a one since the last failure
	failures  int  // in a row
	lastError error
	nextPoll  time.Time               // past while one runs
	asked     []chan error            // by whom a poll was asked for, each with room for its outcome
	interrupt context.CancelCauseFunc // of a request that waits; nil: none does
	pace      pace                    // of the poll under way
}

func newPoller(service string, f Feed, client *feed.Client, given tuning, logger *slog.Logger) *poller {
	given.source = "default"
	return &poller{
		Feed: f, service: service, client: client, given: given, logger: logger, metrics: newPollerMetrics(f.Name),
		wake: make(chan struct{}, 1), standby: true,
	}
}

// errInterrupted ends a request that waits, when there is something else to do.
var errInterrupted = errors.New("interrupted")

// run polls at once and then on schedule, one poll at a time, until ctx ends.
func (p *poller) run(ctx context.Context) {
	p.setStandby(false)
	defer p.setStandby(true)
	for ctx.Err() == nil {
		select {
		case <-p.wake: // for what due is about to see
		default:
		}
		asked, next := p.due(time.Now())
		if asked == nil && !next.IsZero() {
			select {
			case <-ctx.Done():
			case <-p.wake:
			case <-time.After(min(time.Until(next), time.Minute)): // it does not know of a clock that is set or a machine that slept
			}
			continue
		}
		err := p.poll(ctx, len(asked) == 0)
		if ctx.Err() == nil && !errors.Is(err, errInterrupted) {
			p.after(err, time.Now())
		}
		for _, outcome := range asked {
			outcome <- err
		}
	}
}

// due gives those who ask for a poll, and when the next is due if nobody does; zero is now.
func (p *poller) due(now time.Time) (asked []chan error, next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked, p.asked = p.asked, nil
	switch {
	case asked != nil:
	case p.copied.paused:
		next = now.Add(time.Hour)
	case p.nextPoll.After(now):
		next = p.nextPoll
	}
	return asked, next
}

func (p *poller) setStandby(standby bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.standby = standby
	if standby {
		for _, outcome := range p.asked {
			outcome <- errStandby
		}
		p.asked = nil
		p.lastError, p.failures, p.nextPoll, p.pace = nil, 0, time.Time{}, pace{}
		p.succeeded, p.waits, p.tried = false, false, false
	}
}

var errStandby = errors.New("another process of this service polls")

// pollNow polls at once, and gives how that ended.
func (p *poller) pollNow(ctx context.Context) error {
	outcome := make(chan error, 1)
	p.mu.Lock()
	if p.standby {
		p.mu.Unlock()
		return errStandby
	}
	p.asked = append(p.asked, outcome)
	p.mu.Unlock()
	p.rouse()
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rouse makes run look what is to be done.
func (p *poller) rouse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.interrupt != nil {
		p.interrupt(errInterrupted)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// after notes how a poll ended, and when the next is due.
func (p *poller) after(err error, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.lastError
	p.lastError, p.pace = err, pace{}
	p.metrics.polled(err)
	if err == nil {
		if was != nil {
			p.logger.Info("source answers again", "feed", p.Name, "failures", p.failures)
		}
		p.failures, p.succeeded = 0, true
		p.nextPoll = p.tuned.schedule.Next(now)
		if p.tuned.wait > 0 && (p.waits || !p.tried) {
			p.nextPoll = now
		}
		return p.nextPoll
	}
	p.failures++
	p.succeeded, p.waits, p.tried = false, false, false
	wait := p.tuned.schedule.backoff(p.failures, now)
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

// A fetched page, or what came instead.
type fetched struct {
	feed.Request
	*feed.Answer
	err error
}

// fetch asks for page after page until nothing is left, while those before are applied. It ends with ctx, and with an error.
func (p *poller) fetch(ctx context.Context, r feed.Request) <-chan fetched {
	pages := make(chan fetched, 1)
	go func() {
		defer close(pages)
		for {
			answer, err := p.client.Get(ctx, r)
			select {
			case pages <- fetched{r, answer, err}:
			case <-ctx.Done():
				return
			}
			if err != nil || answer.Page == nil || answer.Page.UpToDate {
				return
			}
			r.After, r.ETag, r.Wait = answer.Page.Cursor, "", 0
		}
	}()
	return pages
}

// poll copies until the copy is up to date. Each page is applied in a transaction of its own together with the cursor behind
// it, so that it can be broken off anywhere. Where the source has another history, a walk begins. A poll that somebody asked
// for, unlike one on schedule, does not wait at the source, and minds no pause.
func (p *poller) poll(ctx context.Context, scheduled bool) error {
	at, err := p.load(ctx)
	if err == nil {
		err = p.mayGoOn(ctx, scheduled) // a pause that load takes over rouses nobody
	}
	if err != nil {
		return err
	}
	if !at.walking {
		err = p.copyPages(ctx, at, scheduled)
		gone, diverged := errors.AsType[*feed.StatusError](err)
		switch {
		case diverged && errors.Is(err, feed.ErrDiverged):
			err = p.beginWalk(ctx, "The source has another history than the copy had.", gone.History)
		case !errors.Is(err, errFenced):
			return err
		}
		loaded, loadErr := p.load(ctx)
		if loadErr != nil || !loaded.walking { // else somebody asked for a walk in the middle
			return errors.Join(err, loadErr)
		}
		at = loaded
	}
	return p.walkOn(ctx, at, scheduled)
}

func (p *poller) mayWait() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.succeeded && p.tuned.wait > 0
}

// setInterrupt tells rouse what ends a request that waits; who came before it counts, too.
func (p *poller) setInterrupt(interrupt context.CancelCauseFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.interrupt = interrupt
	if interrupt != nil && len(p.wake) > 0 {
		interrupt(errInterrupted)
	}
}

// mayGoOn tells whether the next page may be applied: not at the stop, and not when a poll on schedule is paused.
func (p *poller) mayGoOn(ctx context.Context, scheduled bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if scheduled && p.copied.paused {
		p.pace = pace{}
		return errInterrupted
	}
	return ctx.Err()
}

// heard notes whether the source waits. One that answers at once, and has nothing new, does not.
func (p *poller) heard(f fetched, took time.Duration) {
	if f.Wait == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	nothing := f.Page == nil || len(f.Page.Entries) == 0
	p.tried, p.waits = true, f.Waits && (!nothing || took >= f.Wait/2)
}

// A pace is how fast a poll copies.
type pace struct {
	began, said time.Time
	copied      int   // entries
	left        int64 // as far as the source said
}

// perSecond gives 0 where it is too early to tell.
func (p pace) perSecond(now time.Time) float64 {
	if took := now.Sub(p.began).Seconds(); took > 0.5 {
		return float64(p.copied) / took
	}
	return 0
}

// copying says how it goes: when all is copied, and every five seconds on a long way.
func (p *poller) copying(so *pace, page *feed.Page, to progress) {
	done := page == nil || page.UpToDate
	if page != nil {
		so.copied += len(page.Entries)
	}
	so.left = max(to.headPosition-to.cursor.Position, 0)
	now := time.Now()
	if so.copied > 0 && (done || now.Sub(so.said) > progressEvery) {
		so.said = now
		attrs := []any{"feed", p.Name, "entries", so.copied, "cursor", to.cursor.String(), "behind", so.left}
		if rate := so.perSecond(now); rate > 0 {
			attrs = append(attrs, "per_second", int(rate))
			if so.left > 0 {
				attrs = append(attrs, "time_left", time.Duration(float64(so.left)/rate*float64(time.Second)).Round(time.Second))
			}
		}
		p.logger.Info("copied", attrs...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pace = *so; done {
		p.pace = pace{}
	}
}

func (p *poller) copyPages(ctx context.Context, at progress, scheduled bool) error {
	set := p.tuning()
	r := feed.Request{URL: p.URL, After: at.cursor, Limit: set.pageSize}
	if at.etagURL == p.shownPage(r) {
		r.ETag = at.etag
	}
	waiting := ctx
	if scheduled && p.mayWait() {
		r.Wait = set.wait
		var interrupt context.CancelCauseFunc
		waiting, interrupt = context.WithCancelCause(ctx)
		defer interrupt(nil)
		p.setInterrupt(interrupt)
		defer p.setInterrupt(nil)
	}
	began := time.Now()
	fetching, stop := context.WithCancel(waiting)
	defer stop()
	so := pace{began: began, said: began}
	turns := turns{beside: p.Pure && p.healthy()}
	defer func() { _ = turns.wait() }() // of which the first error is known by then
	var err error
	for f := range p.fetch(fetching, r) {
		p.setInterrupt(nil) // what follows is work
		if f.err != nil || p.mayGoOn(ctx, scheduled) != nil {
			err = f.err
			break
		}
		p.heard(f, time.Since(began))
		to := p.behind(at, f, time.Since(began))
		if err := p.applyPage(ctx, &turns, f.Page, at, to); err != nil {
			return err
		}
		p.copying(&so, f.Page, to)
		at = to
		if f.Page == nil || f.Page.UpToDate {
			return nil
		}
	}
	if err := turns.wait(); err != nil {
		return err
	}
	return cmp.Or(p.mayGoOn(ctx, scheduled), context.Cause(waiting), err)
}

// healthy: the last poll did not fail.
func (p *poller) healthy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failures == 0
}

// shownPage is the URL of a page without a password.
func (p *poller) shownPage(r feed.Request) string {
	r.URL = p.shownURL
	return r.PageURL()
}

// behind gives the progress behind a page.
func (p *poller) behind(at progress, f fetched, took time.Duration) progress {
	to, done := at, f.Page == nil
	if page := f.Page; page != nil {
		done = page.UpToDate
		to.cursor, to.etag, to.etagURL = page.Cursor, f.Answer.ETag, p.shownPage(f.Request)
		to.headPosition = page.Head.Position
		if page.Sealed { // which does not tell, but that a full page follows
			to.headPosition = max(at.headPosition, page.Cursor.Position+int64(f.Limit))
		}
	}
	if done {
		to.asOf, to.lastSuccess = f.AsOf, time.Now().UTC().Truncate(time.Millisecond)
		if f.Waits && took >= f.Wait && (f.Page == nil || len(f.Page.Entries) == 0) {
			to.asOf = to.asOf.Add(f.Wait) // for so long there was nothing new, at least
		}
	}
	return to
}

// A turn is a page's, to be applied.
type turn struct {
	ids  map[uuid.UUID]bool
	done chan struct{}
	err  error // when done
}

// turns are those under way: one, or two where one may go on beside the next.
type turns struct {
	beside       bool
	last, before *turn
}

func (t *turns) wait() error {
	if t.last != nil {
		<-t.last.done
	}
	return t.err()
}

func (t *turns) err() error {
	for _, turn := range []*turn{t.before, t.last} {
		if turn == nil {
			continue
		}
		select {
		case <-turn.done:
			if turn.err != nil {
				return turn.err
			}
		default:
		}
	}
	return nil
}

// applyPage applies a page after those before it. That of a pure copy goes on beside the next one, if no entity is on both: it
// still is committed first. (After a failure none does: what the two may have been to each other ends there.)
func (p *poller) applyPage(ctx context.Context, t *turns, page *feed.Page, from, to progress) error {
	var entries []feed.Entry
	if page != nil {
		entries = page.Latest()
	}
	now := &turn{done: make(chan struct{})}
	beside := t.beside && page != nil && !page.UpToDate
	if beside {
		now.ids = make(map[uuid.UUID]bool, len(entries))
		for _, e := range entries {
			now.ids[e.ID] = true
		}
	}
	if t.before != nil {
		<-t.before.done
	}
	if t.last != nil && (!beside || overlap(t.last.ids, now.ids)) {
		<-t.last.done
	}
	if err := t.err(); err != nil {
		return err
	}
	before := t.last
	t.before, t.last = t.last, now
	go func() {
		defer close(now.done)
		now.err = p.commit(ctx, entries, from, to, before)
	}()
	if !beside {
		return t.wait()
	}
	return nil
}

func overlap(a, b map[uuid.UUID]bool) bool {
	for id := range a {
		if b[id] {
			return true
		}
	}
	return false
}

// commit moves the cursor and applies the entries, both or neither. It is not broken off by ctx.
func (p *poller) commit(ctx context.Context, entries []feed.Entry, from, to progress, before *turn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dbTimeout)
	defer cancel()
	began := time.Now()
	bad, err := p.tryCommit(ctx, entries, from, to, before, false)
	if badEntry(err) {
		if before != nil {
			<-before.done
		}
		bad, err = p.tryCommit(ctx, entries, from, to, before, true)
	}
	if err != nil {
		return fmt.Errorf("apply the page after %s: %w", from.cursor, err)
	}
	p.metrics.apply.Observe(time.Since(began).Seconds())
	p.logRejected(ctx, bad)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := &p.copied // what was set meanwhile stays; the next look counts what was rejected
	now.cursor, now.etag, now.etagURL, now.headPosition, now.asOf, now.lastSuccess = to.cursor, to.etag, to.etagURL, to.headPosition, to.asOf, to.lastSuccess
	return nil
}

func (p *poller) tryCommit(ctx context.Context, entries []feed.Entry, from, to progress, before *turn, carefully bool) (bad []rejection, err error) {
	move := func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			update subscription set cursor = $3, etag = $4, etag_url = $5, head_position = $6, as_of = $7, last_success_at = $8
			 where feed = $1 and cursor = $2 and walk_cursor is null`,
			p.Name, from.cursor.String(), to.cursor.String(), to.etag, to.etagURL, to.headPosition, timeOrNull(to.asOf), timeOrNull(to.lastSuccess))
		if err == nil && tag.RowsAffected() == 0 {
			err = errFenced
		}
		return err
	}
	err = p.inTx(ctx, func(tx pgx.Tx) error {
		// The cursor goes first, where it can: a second process then waits for this one and is fenced before it works.
		alone := before == nil || isDone(before)
		if alone {
			if err := move(tx); err != nil {
				return err
			}
		}
		if len(entries) > 0 {
			entries, err := p.Newer(ctx, tx, entries)
			if err != nil {
				return err
			}
			if bad, err = p.apply(ctx, tx, entries, carefully); err != nil {
				return err
			}
			if err := allRefused(bad, len(entries)); err != nil {
				return err
			}
		}
		if alone {
			return nil
		}
		if <-before.done; before.err != nil {
			return before.err
		}
		return move(tx)
	})
	return bad, err
}

// inTx bounds what a process that hangs, or a host that is gone, keeps from the others of its service: locks, and a place in line.
func (p *poller) inTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{
		BeginQuery: "begin; set local lock_timeout = '30s'; set local idle_in_transaction_session_timeout = '60s'",
	}, f)
}

func isDone(t *turn) bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}
