package subscribe

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// A poll runs through these steps, in the order of this file and apply.go:
//
//	fire    poller.run waits until state.due says so, or until somebody asks for a poll
//	lease   it runs only in the process that has the lease (lease.go)
//	fetch   poller.tryPages takes page after page from the fetcher (fetch.go)
//	check   applier.applyPage leaves out what is erased (erased.go), quarantine.check what breaks the contract (quarantine.go)
//	cursor  applier.move moves it first, so that a process that lost the lease fails before it works
//	apply   applier.applyNewer hands what is newer than the copy to the service, and rejects what is at fault
//	commit  applier.tryCommit does these in one transaction; where pages are applied side by side, the cursor moves last.
//	        A small page of a pure copy goes in one round trip (applier.upsertAtOnce)
//	status  state.committed, state.copying and state.after note what the pages and metrics show (state.go, status.go),
//	        history.note keeps how the poll went (history.go)

// run polls at once and then on schedule, one poll at a time, until ctx ends.
func (p *poller) run(ctx context.Context) {
	p.state.assume(rolePolling)
	p.applier.erasures.reset()
	p.quarantine.begin()
	p.history.load(ctx)
	defer func() { p.history.save(context.WithoutCancel(ctx), time.Now(), true) }()
	defer p.state.assume(roleUndecided)
	defer p.stream.listen(ctx)()
	for ctx.Err() == nil {
		select {
		case <-p.requests.wake: // only a signal: what has changed is read below
		default:
		}
		p.stream.applyArrived(ctx)
		asked, next := p.requests.take(), p.state.due(time.Now(), p.stream.wants())
		if len(asked) == 0 && !next.IsZero() {
			select {
			case <-ctx.Done():
			case <-p.requests.wake:
			case m := <-p.stream.messages():
				p.stream.receive(m)
			case <-time.After(min(time.Until(next), heartbeat)): // time.After does not notice that the clock was set
			}
			continue
		}
		began := time.Now()
		p.fetcher.received()
		err := p.poll(ctx, len(asked) == 0)
		p.history.note(began, time.Now(), p.fetcher.received(), err)
		switch {
		case ctx.Err() != nil, errors.Is(err, errInterrupted):
		case errors.Is(err, errCut):
			p.state.afterCut()
		default:
			p.state.after(err, time.Now())
			if err != nil {
				p.row.storeFailing(ctx)
			}
			p.stream.pollEnded(err, time.Now())
		}
		for _, outcome := range asked {
			outcome <- err
		}
		p.history.save(ctx, time.Now(), false)
		if err == nil && p.state.hasRejected() {
			err := p.quarantine.retryDue(ctx, func() bool { return p.state.mayGoOn(ctx, true) == nil })
			if err != nil && ctx.Err() == nil {
				p.logger.WarnContext(ctx, "rejected entries could not be tried again", "feed", p.Name, "error", err)
			}
			if err == nil && p.quarantine.retryIsDue() { // new entries do not wait for all of them
				p.state.pollAtOnce()
			}
		}
	}
}

// poll copies until the copy is up to date. It applies each page and the cursor behind it in a transaction of its own,
// so a poll can be interrupted anywhere. If the source has another history, poll begins a resync. A poll that a person
// or program asked for does not wait at the source, and runs although the subscription is paused.
func (p *poller) poll(ctx context.Context, scheduled bool) error {
	at, err := p.row.begin(ctx, scheduled)
	if err == nil {
		err = p.state.mayGoOn(ctx, scheduled) // a pause that load reads wakes nobody
	}
	if err == nil && p.Past && at.past == nil {
		err = p.seePast(ctx)
	}
	if err == nil {
		err = p.applier.eraseAgain(ctx)
	}
	if err != nil {
		return err
	}
	if !at.resync.underWay {
		err = p.copyPages(ctx, at, scheduled)
		gone, diverged := errors.AsType[*feedclient.StatusError](err)
		_, lacksMember := errors.AsType[*incompleteError](err)
		switch {
		case diverged && errors.Is(err, feedclient.ErrDiverged):
			err = p.resyncer.diverged(ctx, anotherHistory, gone, err)
		case errors.Is(err, feed.ErrNoSnapshot): // a replay would not show whether the history is still the same
			err = p.resyncer.begin(ctx, "The source did not go on with its snapshot.", nil)
		case lacksMember && !errors.Is(err, ErrApply):
			err = p.resyncer.begin(ctx, "An entity lacks what the copy needs: a later version may have it.", nil)
		case !errors.Is(err, errFenced):
			return err
		}
		loaded, loadErr := p.row.load(ctx)
		if loadErr != nil || !loaded.resync.underWay { // else a person or program asked for a resync meanwhile
			return errors.Join(err, loadErr)
		}
		at = loaded
	}
	return p.resyncer.goOn(ctx, at, scheduled)
}

// copyPages copies page after page. If Apply returns ErrTooMuch, copyPages retries at once with a smaller page. If a
// page cannot be applied for another reason, the next poll requests a smaller page, or a larger one if every entry was
// refused, since other entries on it may pass.
func (p *poller) copyPages(ctx context.Context, at progress, scheduled bool) error {
	err := p.tryPages(ctx, at, scheduled)
	if p.quarantine.seeCheck(ctx, p.fetcher, at, err) {
		if at, err = p.row.load(ctx); err == nil {
			err = p.tryPages(ctx, at, scheduled)
		}
	}
	page, failed := errors.AsType[*pageError](err)
	for failed && page.entries > 1 && errors.Is(err, ErrTooMuch) {
		p.fetcher.halve(int(page.entries))
		if at, err = p.row.load(ctx); err == nil {
			err = p.tryPages(ctx, at, scheduled)
		}
		page, failed = errors.AsType[*pageError](err)
	}
	_, refused := errors.AsType[*refusedError](err)
	p.fetcher.resize(func(size *pageSize, set int) {
		switch {
		case err == nil:
			size.size, size.unread = 0, 0
		case refused:
			size.size = min(2*max(size.size, set), feed.MaxPageSize)
		case failed && page.entries > 0 && !errors.Is(err, errFenced):
			size.size = max(int(page.entries/2), 1)
		}
	})
	return err
}

// tryPages applies pages until the copy is up to date, or until one fails.
func (p *poller) tryPages(ctx context.Context, at progress, scheduled bool) error {
	r := feedclient.Request{URL: p.URL, After: at.cursor, Limit: p.fetcher.limit()}
	if at.lastSuccess.IsZero() { // else the feed was empty
		r.Snapshot = p.snapshotAt(at.place)
	}
	if at.etagURL == p.fetcher.shownPage(r) && p.state.fails() == 0 { // it may be the ETag that makes the source fail
		r.ETag = at.etag
	}
	waiting := ctx
	if wait := p.state.mayWait(); scheduled && wait > 0 && r.Snapshot == nil {
		r.Wait = wait
		var interrupt context.CancelCauseFunc
		waiting, interrupt = context.WithCancelCause(ctx)
		defer interrupt(nil)
		p.requests.setInterrupt(interrupt)
		defer p.requests.setInterrupt(nil)
	}
	began := time.Now()
	fetching, stop := context.WithCancel(waiting)
	defer stop()
	so := pace{began: began, said: began}
	turns := turns{most: p.applier.mostTurns()}
	defer func() { _ = turns.wait(0) }() // waits for the rest; its first error was returned already
	var err error
	for f := range p.fetcher.fetch(fetching, r, p.fetcher.limit) {
		p.requests.setInterrupt(nil) // from here on the poll works and must not be interrupted
		if f.err != nil || p.state.mayGoOn(ctx, scheduled) != nil {
			if err = f.err; err != nil && waiting.Err() == nil {
				err = p.state.waitFailed(f, time.Since(began), time.Now())
			}
			break
		}
		p.state.noteHold(f, time.Since(began))
		to := p.fetcher.behind(at, f, time.Since(began), time.Now())
		p.state.endsAt(to.headPosition)
		if to.compacted, err = p.fetcher.confirm(ctx, at.compacted, f.Page, to.cursor, !to.lastSuccess.Equal(at.lastSuccess)); err != nil {
			break
		}
		if err := p.applier.applyPage(ctx, &turns, f.Page, at, to); err != nil {
			return err
		}
		p.state.copying(&so, f.Page, to)
		at = to
		if f.Page == nil || f.Page.UpToDate {
			if p.quarantine.odds.Swap(false) {
				p.quarantine.begin()
			}
			return nil
		}
	}
	if err := turns.wait(0); err != nil {
		return err
	}
	return cmp.Or(p.state.mayGoOn(ctx, scheduled), context.Cause(waiting), err)
}
