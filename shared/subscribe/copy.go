package subscribe

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A fetched page, or what came instead.
type fetched struct {
	feed.Request
	*feed.Answer
	err error
}

// fetch asks for page after page, each of size entries at most, until nothing is left, while those before are
// applied. It ends with ctx, and with an error.
func (p *poller) fetch(ctx context.Context, r feed.Request, size func() int) <-chan fetched {
	pages := make(chan fetched, 1)
	go func() {
		defer close(pages)
		for {
			r.Limit = size()
			answer, err := p.client.Get(ctx, r)
			if err != nil && ctx.Err() == nil {
				p.shrink(r, err)
			}
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
	at, err := p.begin(ctx, scheduled)
	if err == nil {
		err = p.mayGoOn(ctx, scheduled) // a pause that load takes over rouses nobody
	}
	if err == nil && p.Past && at.past == nil {
		err = p.seePast(ctx)
	}
	if err == nil {
		err = p.eraseAgain(ctx)
	}
	if err != nil {
		return err
	}
	if !at.resync.underWay {
		err = p.copyPages(ctx, at, scheduled)
		gone, diverged := errors.AsType[*feed.StatusError](err)
		switch {
		case diverged && errors.Is(err, feed.ErrDiverged):
			err = p.beginWalk(ctx, "The source has another history than the copy had.", gone)
		case !errors.Is(err, errFenced):
			return err
		}
		loaded, loadErr := p.load(ctx)
		if loadErr != nil || !loaded.resync.underWay { // else somebody asked for a walk in the middle
			return errors.Join(err, loadErr)
		}
		at = loaded
	}
	return p.walkOn(ctx, at, scheduled)
}

// begin gives how far the copy is. Between two requests that wait nothing is read: what others change is heard of by the leader's
// looks, and by the cursor when it does not move.
func (p *poller) begin(ctx context.Context, scheduled bool) (progress, error) {
	p.mu.Lock()
	at, known := p.copied, scheduled && p.last == pollSucceeded && p.hold == holdKept
	p.mu.Unlock()
	if known {
		return at, nil
	}
	return p.load(ctx)
}

// seePast notes where the feed ends, before anything of it is copied.
func (p *poller) seePast(ctx context.Context) error {
	head, err := p.client.Head(ctx, p.URL)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, dbTimeout)
		defer cancel()
		_, err = p.pool.Exec(ctx, `update subscription set past = $3 where service = $1 and feed = $2 and past is null`,
			p.service, p.Name, head.Position)
	}
	return err
}

// mayWait returns for how long a request may wait at the source. The first one after a failure does not.
func (p *poller) mayWait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != pollSucceeded {
		return 0
	}
	return p.wait(time.Now())
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
	p.hold = holdIgnored
	if f.Waits && (!nothing || took >= f.Wait/2) {
		p.hold = holdKept
	}
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
				left := min(float64(so.left)/rate, time.Duration(math.MaxInt64).Truncate(time.Hour).Seconds())
				attrs = append(attrs, "time_left", time.Duration(left*float64(time.Second)).Round(time.Second))
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

// copyPages copies. A page that is too much for Apply is followed at once by a smaller one. A page that could not be applied is followed by a smaller one; by a larger one where all was
// refused, since others on it may pass.
func (p *poller) copyPages(ctx context.Context, at progress, scheduled bool) error {
	err := p.tryPages(ctx, at, scheduled)
	if p.seeCheck(ctx, at, err) || p.seeWitness(ctx, err) {
		if at, err = p.load(ctx); err == nil {
			err = p.tryPages(ctx, at, scheduled)
		}
	}
	page, failed := errors.AsType[*pageError](err)
	for failed && page.entries > 1 && errors.Is(err, ErrTooMuch) {
		p.halve(int(page.entries))
		if at, err = p.load(ctx); err == nil {
			err = p.tryPages(ctx, at, scheduled)
		}
		page, failed = errors.AsType[*pageError](err)
	}
	_, refused := errors.AsType[*refusedError](err)
	full := p.tuning().pageSize
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.size, p.unread = 0, 0
	case refused:
		p.size = min(2*max(p.size, full), feed.MaxPageSize)
	case failed && !errors.Is(err, errFenced):
		p.size = max(int(page.entries/2), 1)
	}
	return err
}

// limit is how many entries the next request asks for.
func (p *poller) limit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cmp.Or(p.size, p.tuned.pageSize)
}

// tryUnread is how many pages are copied before one as large as the last that could not be had is asked for again.
const tryUnread = 10

// grow makes the next page up to twice as large, as far as is set. It wants p.mu locked.
func (p *poller) grow() {
	if p.sinceUnread++; p.unread > 0 && 2*p.size >= p.unread {
		if p.sinceUnread < tryUnread {
			return
		}
		p.unread = 0
	}
	p.sinceUnread = 0
	if p.size *= 2; p.size >= p.tuned.pageSize {
		p.size = 0
	}
}

// shrink makes the next request ask for half as much as the one that failed, where it may be for its size: the page may be
// larger than what a client or a proxy takes, or take the source too long. A failure that is no page tells that at once, any
// other one when it is not the first.
func (p *poller) shrink(r feed.Request, err error) {
	p.mu.Lock()
	failures := p.failures
	p.mu.Unlock()
	if r.Wait == 0 && (errors.Is(err, feed.ErrPage) || failures > 0 && ofSize(err)) {
		p.halve(r.Limit)
	}
}

// halve makes the next request ask for half of so many entries.
func (p *poller) halve(entries int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size, p.unread, p.sinceUnread = max(entries/2, 1), entries, 0
}

// ofSize reports whether a request that asks for less may fare better.
func ofSize(err error) bool {
	if status, ok := errors.AsType[*feed.StatusError](err); ok {
		return status.Status >= http.StatusInternalServerError || status.Status == http.StatusRequestEntityTooLarge
	}
	network, ok := errors.AsType[*net.OpError](err)
	return !ok || network.Op != "dial"
}

func (p *poller) tryPages(ctx context.Context, at progress, scheduled bool) error {
	r := feed.Request{URL: p.URL, After: at.cursor, Limit: p.limit()}
	p.mu.Lock()
	failed := p.failures > 0
	p.mu.Unlock()
	if at.etagURL == p.shownPage(r) && !failed { // it may be the ETag at which the source fails
		r.ETag = at.etag
	}
	waiting := ctx
	if wait := p.mayWait(); scheduled && wait > 0 {
		r.Wait = wait
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
	turns := turns{most: p.mostTurns()}
	defer func() { _ = turns.wait(0) }() // of which the first error is known by then
	var err error
	for f := range p.fetch(fetching, r, p.limit) {
		p.setInterrupt(nil) // what follows is work
		if f.err != nil || p.mayGoOn(ctx, scheduled) != nil {
			if err = f.err; err != nil && waiting.Err() == nil {
				err = p.broke(f, time.Since(began), time.Now())
			}
			break
		}
		p.heard(f, time.Since(began))
		to := p.behind(at, f, time.Since(began), time.Now())
		if err := p.applyPage(ctx, &turns, f.Page, at, to); err != nil {
			return err
		}
		p.copying(&so, f.Page, to)
		at = to
		if f.Page == nil || f.Page.UpToDate {
			return nil
		}
	}
	if err := turns.wait(0); err != nil {
		return err
	}
	return cmp.Or(p.mayGoOn(ctx, scheduled), context.Cause(waiting), err)
}

// mostTurns is one unless the copy is pure and the last poll did not fail. A connection is left: who waits for the page before keeps
// its own meanwhile.
func (p *poller) mostTurns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.pure || p.failures > 0 {
		return 1
	}
	return min(maxTurns, int(p.pool.Config().MaxConns)-1)
}

// shownPage is the URL of a page without a password.
func (p *poller) shownPage(r feed.Request) string {
	r.URL = p.shownURL
	return r.PageURL()
}

// behind gives the progress behind a page.
func (p *poller) behind(at progress, f fetched, took time.Duration, now time.Time) progress {
	to, done := at, f.Page == nil
	if page := f.Page; page != nil {
		done = page.UpToDate
		to.cursor, to.etag, to.etagURL = page.Cursor, f.Answer.ETag, p.shownPage(f.Request)
		to.headPosition = page.Head.Position
		if page.Sealed && !page.UpToDate { // which does not tell, but that a full page follows
			to.headPosition = max(at.headPosition, page.Cursor.Position+int64(f.Limit))
		}
	}
	if done {
		to.asOf, to.lastSuccess = f.AsOf, now.UTC().Truncate(time.Millisecond)
		if f.Waits && took >= f.Wait && (f.Page == nil || len(f.Page.Entries) == 0) {
			to.asOf = to.asOf.Add(f.Wait) // for so long there was nothing new, at least
		}
		to.asOf = since(to.asOf, now) // the clock may have been set back meanwhile
	}
	return to
}
