package subscribe

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// A poll runs through these steps, in the order of this file:
//
//	fire    poller.run waits until state.due says so, or until somebody asks for a poll
//	lease   it runs only in the process that has the lease (lease.go)
//	fetch   poller.tryPages takes page after page from the fetcher (fetch.go)
//	check   applier.applyPage leaves out what is erased (erased.go), quarantine.check what breaks the contract (quarantine.go)
//	cursor  applier.move moves it first, so that a process that lost the lease fails before it works
//	apply   applier.applyNewer hands what is newer than the copy to the service, and rejects what is at fault
//	commit  applier.tryCommit does these in one transaction; where pages are applied side by side, the cursor moves last.
//	        A small page of a pure copy goes in one round trip (applier.upsertAtOnce in apply.go)
//	status  state.committed, state.copying and state.after note what the pages and metrics show (state.go, status.go)

// run polls at once and then on schedule, one poll at a time, until ctx ends.
func (p *poller) run(ctx context.Context) {
	p.state.assume(rolePolling)
	p.applier.erasures.reset()
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
		err := p.poll(ctx, len(asked) == 0)
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
		switch {
		case diverged && errors.Is(err, feedclient.ErrDiverged):
			err = p.resyncer.begin(ctx, "The source has another history than the copy had.", gone)
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
	if p.quarantine.seeCheck(ctx, p.fetcher, at, err) || p.quarantine.seeWitness(ctx, p.fetcher.client, err) {
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
		case failed && !errors.Is(err, errFenced):
			size.size = max(int(page.entries/2), 1)
		}
	})
	return err
}

// tryPages applies pages until the copy is up to date, or until one fails.
func (p *poller) tryPages(ctx context.Context, at progress, scheduled bool) error {
	r := feedclient.Request{URL: p.URL, After: at.cursor, Limit: p.fetcher.limit()}
	if at.etagURL == p.fetcher.shownPage(r) && p.state.fails() == 0 { // it may be the ETag that makes the source fail
		r.ETag = at.etag
	}
	waiting := ctx
	if wait := p.state.mayWait(); scheduled && wait > 0 {
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
		if err := p.applier.applyPage(ctx, &turns, f.Page, at, to); err != nil {
			return err
		}
		p.state.copying(&so, f.Page, to)
		at = to
		if f.Page == nil || f.Page.UpToDate {
			return nil
		}
	}
	if err := turns.wait(0); err != nil {
		return err
	}
	return cmp.Or(p.state.mayGoOn(ctx, scheduled), context.Cause(waiting), err)
}

// applyPage applies a page after those before it. A page of a pure copy is applied beside the pages before it if they
// have no entity in common; the pages are still committed in order. After a failure all pages are applied one by one.
func (a *applier) applyPage(ctx context.Context, t *turns, page *feed.Page, from, to progress) error {
	page, err := a.erasures.forget(ctx, page)
	if err != nil {
		return err
	}
	var entries []feed.Entry
	if page != nil && (a.Apply != nil || a.state.hasRejected() || slices.ContainsFunc(page.Entries, malformed)) {
		entries = page.Latest(a.quarantine.isBad)
	}
	now := &turn{done: make(chan struct{})}
	beside, left := t.most > 1 && page != nil && !page.UpToDate, 0
	if beside {
		now.ids = make(map[uuid.UUID]bool, len(entries))
		for _, e := range entries {
			now.ids[e.ID] = true
		}
		left = t.most - 1
		for i, other := range t.all {
			if overlap(other.ids, now.ids) {
				left = min(left, len(t.all)-1-i)
			}
		}
	}
	if err := t.wait(left); err != nil {
		return err
	}
	if err := a.passOn(ctx, from.cursor, page); err != nil {
		return err
	}
	var before *turn
	if len(t.all) > 0 {
		before = t.all[len(t.all)-1]
	}
	t.all = append(t.all, now)
	apply := func() {
		defer close(now.done)
		now.err = a.commit(ctx, entries, from, to, before)
	}
	if beside {
		go apply()
		return nil
	}
	apply()
	return t.wait(0)
}

// commit applies the entries and moves the cursor in one transaction. After ctx ends it has stopTimeout to finish. If
// the page fails as a whole, commit tries it in parts, to find the entries at fault.
func (a *applier) commit(ctx context.Context, entries []feed.Entry, from, to progress, before *turn) error {
	ctx, cancel := finishing(ctx)
	defer cancel()
	began := time.Now()
	doubted, _ := a.quarantine.doubted(entries)
	carefully := len(doubted) > 0 && len(entries) > 1
	bad, err := a.tryCommit(ctx, entries, from, to, before, carefully)
	if err != nil && before != nil {
		if <-before.done; before.err != nil {
			return before.err
		}
	}
	whole := err == nil
	if !whole && !carefully && len(entries) > 0 && a.entryMayBeAtFault(ctx, err) {
		bad, err = a.tryCommit(ctx, entries, from, to, before, true)
	}
	if err != nil {
		return &pageError{"apply the page after " + from.cursor.String(), to.cursor.Position - from.cursor.Position, err}
	}
	a.state.committed(from, to, bad)
	a.metrics.apply.Observe(time.Since(began).Seconds())
	a.quarantine.logRejected(ctx, bad)
	a.quarantine.see(entries, bad)
	a.quarantine.trust(entries)
	if whole { // a smaller page of which a part failed does not show that a larger one would pass
		a.fetcher.grow()
	}
	return nil
}

// entryMayBeAtFault reports whether one of the entries may be the reason why a page failed as a whole.
func (a *applier) entryMayBeAtFault(ctx context.Context, err error) bool {
	_, refused := errors.AsType[*refusedError](err)
	return !refused && !errors.Is(err, errFenced) && !errors.Is(err, ErrTooMuch) && !databaseAtFault(err) && a.answers(ctx)
}

// tryCommit applies the entries and moves the cursor in one transaction. If carefully is set, it applies the entries in
// parts, to find those at fault.
func (a *applier) tryCommit(ctx context.Context, entries []feed.Entry, from, to progress, before *turn, carefully bool) (bad []rejection, err error) {
	timeout := a.timeout
	if carefully {
		timeout *= 3 // enough for the steps of halving a thousand entries down to one that is slow
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	alone := before == nil || isDone(before)
	if alone && !carefully && a.Columns != nil && a.Check == nil && len(entries) < copyFrom && !a.state.hasRejected() {
		return nil, a.upsertAtOnce(ctx, entries, from, to)
	}
	known, look := a.guess(entries), false
	if known == nil || carefully {
		known, look = noneKnown(), len(entries) > 0
	}
	// The cursor moves first, if it can. A second process that copies the same page then waits here, and fails before
	// it does any work.
	err = a.inTx(ctx, func(first *pgx.Batch) {
		if alone {
			a.move(first, from, to)
		}
		if look {
			a.lookUp(first, entries, a.state.hasRejected(), known)
		}
	}, func(tx pgx.Tx) error {
		if len(entries) > 0 {
			end := succeeded(from, to) || a.fetcher.limit() >= feed.MaxPageSize // no larger page can be had
			if bad, err = a.applyNewer(ctx, tx, entries, known, carefully, end); err != nil {
				return err
			}
		}
		if alone {
			return nil
		}
		if <-before.done; before.err != nil {
			return before.err
		}
		var last pgx.Batch
		a.move(&last, from, to)
		return tx.SendBatch(ctx, &last).Close()
	})
	if err == nil && len(entries) > 0 {
		a.allNew.Store(len(known.rows) == 0)
	}
	return bad, err
}

// move queues the statement that moves the cursor. The statement, and with it the transaction, fails if the cursor is
// not at from or a resync has begun.
func (a *applier) move(b *pgx.Batch, from, to progress) {
	sql := `
		update subscription set cursor = case when cursor = $3 and resync_cursor is null then $4 end, -- else null, which it cannot be
		       etag = $5, etag_url = $6, head_position = $7, as_of = $8, last_success_at = $9,
		       failing_since = case when not $10 then failing_since end, stale = stale and not $10
		 where service = $1 and feed = $2`
	if a.pure { // a crash of the database that loses the rows also loses the cursor, and the source still has the entries
		sql += ` returning set_config('synchronous_commit', 'off', true)`
	}
	b.Queue(sql,
		a.service, a.Name, from.cursor.String(), to.cursor.String(), to.etag, to.etagURL,
		to.headPosition, timeOrNull(to.asOf), timeOrNull(to.lastSuccess), succeeded(from, to),
	).Fn = func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == notNullViolation {
			return errFenced
		}
		return cmp.Or(err, fenced(tag))
	}
}

// applyNewer applies those of the entries that are newer than what is known. end says that no larger page is available,
// in which other entries could pass.
func (a *applier) applyNewer(ctx context.Context, tx pgx.Tx, entries []feed.Entry, known *known, carefully, end bool) (bad []rejection, err error) {
	if entries = known.newer(entries); len(entries) == 0 {
		return nil, nil
	}
	if carefully {
		bad, err = a.quarantine.applyCarefully(ctx, tx, entries, a.quarantine.step())
	} else {
		var good []feed.Entry
		if good, bad = a.quarantine.check(entries); len(good) > 0 {
			err = a.call(ctx, tx, good, known.rows)
		}
	}
	if err == nil {
		err = a.quarantine.reject(ctx, tx, bad)
	}
	if err == nil {
		err = a.quarantine.judge(ctx, tx, len(entries), bad, end)
	}
	if err == nil {
		err = a.quarantine.settle(bad)
	}
	if err != nil {
		return nil, err
	}
	if len(known.rejected) == 0 {
		return bad, nil
	}
	return bad, a.quarantine.clear(ctx, tx, good(entries, bad)...)
}
