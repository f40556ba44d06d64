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

// The way of a poll, in the order of this file:
//
//	fire    poller.run waits until state.due says so, or until somebody asks for a poll
//	lease   it runs only in the process that has the lease (lease.go)
//	fetch   poller.tryPages takes page after page from the fetcher (fetch.go)
//	check   applier.applyPage leaves out what is erased (erased.go), quarantine.check what breaks the contract (quarantine.go)
//	cursor  applier.move moves it first, so that a process that lost the lease fails before it works
//	apply   applier.applyNewer hands what is newer than the copy to the service, and rejects what is at fault
//	commit  applier.tryCommit does these in one transaction; where pages are applied side by side, the cursor moves last
//	status  state.committed, state.copying and state.after note what the pages and metrics show (state.go, status.go)

// run polls at once and then on schedule, one poll at a time, until ctx ends.
func (p *poller) run(ctx context.Context) {
	p.state.assume(rolePolling)
	p.applier.erasures.reset()
	defer p.state.assume(roleUndecided)
	defer p.stream.listen(ctx)()
	for ctx.Err() == nil {
		select {
		case <-p.requests.wake: // for what due is about to see
		default:
		}
		p.stream.hear(ctx)
		asked, next := p.requests.take(), p.state.due(time.Now(), p.stream.wants())
		if len(asked) == 0 && !next.IsZero() {
			select {
			case <-ctx.Done():
			case <-p.requests.wake:
			case m := <-p.stream.messages():
				p.stream.receive(m)
			case <-time.After(min(time.Until(next), heartbeat)): // it does not know of a clock that is set or a machine that slept
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
			p.stream.heardOut(err, time.Now())
		}
		for _, outcome := range asked {
			outcome <- err
		}
	}
}

// poll copies until the copy is up to date. Each page is applied in a transaction of its own together with the cursor
// behind it, so that it can be broken off anywhere. Where the source has another history, a resync begins. A poll that
// somebody asked for, unlike one on schedule, does not wait at the source, and minds no pause.
func (p *poller) poll(ctx context.Context, scheduled bool) error {
	at, err := p.row.begin(ctx, scheduled)
	if err == nil {
		err = p.state.mayGoOn(ctx, scheduled) // a pause that load takes over rouses nobody
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
		if loadErr != nil || !loaded.resync.underWay { // else somebody asked for a resync in the middle
			return errors.Join(err, loadErr)
		}
		at = loaded
	}
	return p.resyncer.goOn(ctx, at, scheduled)
}

// copyPages copies. A page that is too much for Apply is followed at once by a smaller one. A page that could not be
// applied makes the next poll ask for a smaller one; if all of it was refused, for a larger one, since others on it may
// pass.
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
	if at.etagURL == p.fetcher.shownPage(r) && p.state.fails() == 0 { // it may be the ETag at which the source fails
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
	defer func() { _ = turns.wait(0) }() // of which the first error is known by then
	var err error
	for f := range p.fetcher.fetch(fetching, r, p.fetcher.limit) {
		p.requests.setInterrupt(nil) // what follows is work
		if f.err != nil || p.state.mayGoOn(ctx, scheduled) != nil {
			if err = f.err; err != nil && waiting.Err() == nil {
				err = p.state.broke(f, time.Since(began), time.Now())
			}
			break
		}
		p.state.heard(f, time.Since(began))
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

// applyPage applies a page after those before it. That of a pure copy goes on beside the next ones, if no entity is on
// both: it still is committed first. (After a failure none does: what they may have been to each other ends there.)
func (a *applier) applyPage(ctx context.Context, t *turns, page *feed.Page, from, to progress) error {
	page, err := a.erasures.forget(ctx, page)
	if err != nil {
		return err
	}
	var entries []feed.Entry
	if page != nil && (a.Apply != nil || a.state.hasRejected() || slices.ContainsFunc(page.Entries, malformed)) {
		entries = page.Latest()
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

// commit moves the cursor and applies the entries, both or neither. When ctx ends it has stopTimeout to finish. What
// fails as a whole is tried again in parts, to find what is at fault.
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
	_, refused := errors.AsType[*refusedError](err)
	whole := err == nil
	if !whole && !carefully && len(entries) > 0 && !refused && !errors.Is(err, errFenced) && !errors.Is(err, ErrTooMuch) && !databaseAtFault(err) && a.answers(ctx) {
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
	if whole { // else another one of this size is enough
		a.fetcher.grow()
	}
	return nil
}

// tryCommit moves the cursor and applies the entries in one transaction: carefully means in parts, to find those at
// fault.
func (a *applier) tryCommit(ctx context.Context, entries []feed.Entry, from, to progress, before *turn, carefully bool) (bad []rejection, err error) {
	timeout := a.timeout
	if carefully {
		timeout *= 3 // as many steps as it takes to find one of a thousand that takes as long as it may
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
	// The cursor goes first, where it can: a second process then waits for this one and is fenced before it works.
	err = a.inTx(ctx, func(first *pgx.Batch) {
		if alone {
			a.move(first, from, to)
		}
		if look {
			a.lookUp(first, entries, a.state.hasRejected(), known)
		}
	}, func(tx pgx.Tx) error {
		if len(entries) > 0 {
			end := succeeded(from, to) || a.fetcher.limit() >= feed.MaxPageSize // of what can be had at once
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

// move queues what moves the cursor. It fails where that is not where it was, or a resync has begun, and with it the
// whole transaction.
func (a *applier) move(b *pgx.Batch, from, to progress) {
	sql := `
		update subscription set cursor = case when cursor = $3 and resync_cursor is null then $4 end, -- else null, which it cannot be
		       etag = $5, etag_url = $6, head_position = $7, as_of = $8, last_success_at = $9,
		       failing_since = case when not $10 then failing_since end, stale = stale and not $10
		 where service = $1 and feed = $2`
	if a.pure { // what a crash of the database takes, it takes with its cursor: the source still has it
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

// applyNewer applies those of the entries that are newer than what is known. end: no page has others beside them.
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
