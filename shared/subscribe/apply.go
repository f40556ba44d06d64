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
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// An applier applies pages. It stores a page's rows and the cursor behind it in one transaction.
type applier struct {
	*target
	state      *state
	fetcher    *fetcher
	quarantine *quarantine
	erasures   *erasures
	metrics    *pollerMetrics
	siblings   []*poller // those of the other sources of the feed
}

// applyPage applies a page after those before it. A page of a pure copy is applied beside the pages before it if they
// have no entity in common; the pages are still committed in order. After a failure all pages are applied one by one.
func (a *applier) applyPage(ctx context.Context, t *turns, page *feed.Page, from, to progress) error {
	page, err := a.erasures.forget(ctx, page)
	if err != nil {
		return err
	}
	now := &turn{from: from, to: to, done: make(chan struct{})}
	if page != nil {
		now.size = int64(len(page.Entries))
		if a.Apply != nil {
			now.copied = copiedPage{from.cursor, to.cursor, entityIDs(page.Entries)}
		}
		if a.Past {
			now.skipped = superseded(page)
		}
	}
	if page != nil && (a.Apply != nil || a.state.hasRejected() || slices.ContainsFunc(page.Entries, malformed)) {
		now.entries = page.Latest(a.quarantine.isBad)
	}
	beside, left := t.most > 1 && page != nil && !page.UpToDate, 0
	if beside {
		left = t.most - 1
		for i, other := range t.all {
			if overlap(other, now) {
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
	if len(t.all) > 0 {
		now.before = t.all[len(t.all)-1]
	}
	t.all = append(t.all, now)
	apply := func() {
		defer close(now.done)
		now.err = a.commit(ctx, now)
		now.before = nil // else every page of a poll would stay in memory
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
func (a *applier) commit(ctx context.Context, t *turn) error {
	if err := a.quarantine.complete(t.entries); err != nil {
		if t.endsPoll() { // else a later page may have a complete version, which poll looks for
			err = &pageError{what: "the copy pauses before the page after " + t.from.String(), err: err}
		}
		return err
	}
	ctx, cancel := finishing(ctx)
	defer cancel()
	began := time.Now()
	doubted, _ := a.quarantine.doubted(t.entries)
	carefully := len(doubted) > 0 && len(t.entries) > 1 || a.quarantine.suspects(t.entries)
	bad, err := a.tryCommit(ctx, t, carefully)
	if err != nil && t.before != nil {
		if <-t.before.done; t.before.err != nil {
			return t.before.err
		}
	}
	whole := err == nil
	if !whole && !carefully && len(t.entries) > 0 && a.entryMayBeAtFault(ctx, err) {
		bad, err = a.tryCommit(ctx, t, true)
	}
	if _, ended := errors.AsType[*sessionError](err); ended { // with a witness, the next attempt may tell why
		a.quarantine.seekWitness(ctx, a.fetcher.client)
	}
	if err != nil {
		return &pageError{"apply the page after " + t.from.String(), t.size, err}
	}
	a.unknown.Store(false)
	a.state.committed(t, bad)
	a.metrics.apply.Observe(time.Since(began).Seconds())
	a.quarantine.logRejected(ctx, bad)
	a.freed(ctx, t.entries, bad)
	if (t.from.inSnapshot() || t.to.inSnapshot()) && slices.ContainsFunc(bad, func(r rejection) bool { return !r.checked }) {
		a.quarantine.odds.Store(true)
	}
	a.quarantine.see(t.entries, bad)
	a.quarantine.trust(t.entries)
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
func (a *applier) tryCommit(ctx context.Context, t *turn, carefully bool) (bad []rejection, err error) {
	timeout := a.timeout
	if carefully {
		a.quarantine.seekWitness(ctx, a.fetcher.client)
		timeout *= 3 // enough for the steps of halving a thousand entries down to one that is slow
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	alone := t.before == nil || isDone(t.before)
	if alone && !carefully && a.pure && !a.owned && a.Check == nil && len(t.entries) < copyFrom && !a.state.hasRejected() {
		return nil, a.upsertAtOnce(ctx, t)
	}
	known := noneKnown()
	// The cursor moves first, if it can. A second process that copies the same page then waits here, and fails before
	// it does any work.
	err = a.inTx(ctx, func(first *pgx.Batch) {
		if alone {
			a.move(first, t)
		}
		if len(t.entries) > 0 {
			a.claim(first, t.entries, known.owners)
			a.lookUp(first, t.entries, a.state.hasRejected(), known)
			if a.Past {
				a.takeSkipped(first, t.entries, known)
			}
		}
	}, func(tx pgx.Tx) error {
		if len(t.entries) > 0 {
			if bad, err = a.applyNewer(ctx, tx, t, known, carefully); err != nil {
				return err
			}
		}
		if alone {
			return nil
		}
		if <-t.before.done; t.before.err != nil {
			return t.before.err
		}
		var last pgx.Batch
		a.move(&last, t)
		return tx.SendBatch(ctx, &last).Close()
	})
	if ended, ok := errors.AsType[*sessionError](err); ok && !ended.noted { // at the commit
		_ = a.quarantine.note(ctx, t.entries, ended)
	}
	return bad, err
}

// upsertAtOnce applies a small page of a pure copy in one round trip. PostgreSQL runs the batch as one transaction, and
// each statement compares versions itself.
func (a *applier) upsertAtOnce(ctx context.Context, t *turn) error {
	return a.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		u, err := newUpsert(ctx, conn.Conn(), a.Table, a.Columns)
		if err != nil {
			return err
		}
		var b pgx.Batch
		a.move(&b, t)
		for _, e := range t.entries {
			if e.Deleted {
				b.Queue(`delete from `+u.table+` where id = $1 and (version < $2 or $3)`, e.ID, e.Version, e.Erased)
			} else if err := u.queue(&b, u.newer, e); err != nil {
				return err
			}
		}
		err = conn.SendBatch(ctx, &b).Close()
		return cmp.Or(a.quarantine.ended(ctx, conn.Conn(), t.entries, err), err)
	})
}

// move queues the statement that moves the cursor. The statement, and with it the transaction, fails if the cursor is
// not at from, a resync has begun, or another process has other columns or another table.
func (a *applier) move(b *pgx.Batch, t *turn) {
	sql := `
		update subscription set cursor = case when cursor = $3 and ` + currentSnapshot + ` is not distinct from $13
		       and resync_cursor is null and coalesce(columns = $11, true) and table_name = $12 then $4 end, -- else null, which it cannot be
		       snapshot = $14, snapshot_since = null, compacted = nullif($15, '0'), etag = $5, etag_url = $6, head_position = $7, as_of = $8, last_success_at = $9,
		       failing_since = case when not $10 then failing_since end, stale = stale and not $10
		 where service = $1 and feed = $2`
	if a.pure { // a crash of the database that loses the rows also loses the cursor, and the source still has the entries
		sql += ` returning set_config('synchronous_commit', 'off', true)`
	}
	from, fromSnapshot := t.from.columns()
	to, toSnapshot := t.to.columns()
	b.Queue(sql,
		a.service, a.Name, from, to, t.to.etag, t.to.etagURL,
		t.to.headPosition, timeOrNull(t.to.asOf), timeOrNull(t.to.lastSuccess), t.endsPoll(), a.columns(), a.Table,
		fromSnapshot, toSnapshot, t.to.compacted.String(),
	).Fn = func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == notNullViolation {
			return errFenced
		}
		return cmp.Or(err, fenced(tag))
	}
	a.keep(b, t.copied)
	a.skip(b, t.skipped)
}

const notNullViolation = "23502"

// skip queues the statement that notes superseded entities, for those who ask whether an entity is of the past.
func (t *target) skip(b *pgx.Batch, skipped []feed.Entry) {
	if len(skipped) == 0 {
		return
	}
	var ids []uuid.UUID
	var firsts []int64
	for _, e := range skipped {
		ids, firsts = append(ids, e.ID), append(firsts, cmp.Or(e.First, e.Position))
	}
	b.Queue(`
		insert into skipped_entity (service, feed, id, first_position)
		select $1, $2, id, first from unnest($3::uuid[], $4::bigint[]) as e (id, first)
		 where first <= (select past from subscription where service = $1 and feed = $2)
		on conflict do nothing`, t.service, t.Name, ids, firsts)
}

// superseded returns the superseded entries of a page.
func superseded(page *feed.Page) (all []feed.Entry) {
	for _, e := range page.Entries {
		if e.Superseded {
			all = append(all, e)
		}
	}
	return all
}

// applyNewer applies those of the page's entries that are newer than what is known.
func (a *applier) applyNewer(ctx context.Context, tx pgx.Tx, t *turn, known *known, carefully bool) (bad []rejection, err error) {
	own, idle, owned := split(t.entries, known.owners)
	entries := known.newer(own)
	if len(entries)+len(idle)+len(owned) == 0 {
		return nil, nil
	}
	if carefully {
		bad, err = a.quarantine.applyCarefully(ctx, tx, entries, a.quarantine.step())
	} else {
		var good []feed.Entry
		if good, bad = a.quarantine.check(entries); len(good) > 0 {
			err = a.call(ctx, tx, good, known.rows)
			err = cmp.Or(a.quarantine.ended(ctx, tx.Conn(), good, err), err)
		}
	}
	if err == nil {
		err = a.quarantine.judge(ctx, tx, len(entries), bad)
	}
	if err == nil {
		bad, entries = append(bad, owned...), slices.Concat(entries, idle)
		err = a.quarantine.reject(ctx, tx, bad)
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
	return bad, a.quarantine.clear(ctx, tx, good(entries, bad))
}

// good returns the entries that were not refused.
func good(entries []feed.Entry, bad []rejection) []feed.Entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e feed.Entry) bool {
		return slices.ContainsFunc(bad, func(r rejection) bool { return r.ID == e.ID && r.Position == e.Position })
	})
}

// fenced returns errFenced if the statement did not move the cursor, since another process has moved it.
func fenced(tag pgconn.CommandTag) error {
	if tag.RowsAffected() == 0 {
		return errFenced
	}
	return nil
}

// A turn is the application of one page.
type turn struct {
	entries  []feed.Entry // the newest of each entity
	skipped  []feed.Entry // superseded ones, if the feed has a past
	copied   copiedPage
	size     int64 // of the page, in entries
	from, to progress
	before   *turn // the page before it, or nil if that was committed

	done chan struct{}
	err  error // set before done is closed
}

// endsPoll reports whether the copy is up to date with the page.
func (t *turn) endsPoll() bool { return !t.to.lastSuccess.Equal(t.from.lastSuccess) }

// maxTurns is the number of pages of a pure copy that are applied at the same time. While one page waits until the
// pages before it are committed, the next ones are written.
const maxTurns = 3

// turns are the pages that are being applied, in the order of the feed. most is how many may be at the same time.
type turns struct {
	most int
	all  []*turn
}

// wait waits until at most left pages are being applied. It returns the first error of those that have ended; after an
// error it waits for all of them.
func (t *turns) wait(left int) (err error) {
	for len(t.all) > 0 && (len(t.all) > left || isDone(t.all[0])) {
		<-t.all[0].done
		if err = cmp.Or(err, t.all[0].err); err != nil {
			left = 0
		}
		t.all = t.all[1:]
	}
	return err
}

// overlap reports whether the pages have an entity in common.
func overlap(a, b *turn) bool {
	ids := make(map[uuid.UUID]bool, len(a.entries))
	for _, e := range a.entries {
		ids[e.ID] = true
	}
	return slices.ContainsFunc(b.entries, func(e feed.Entry) bool { return ids[e.ID] })
}

func isDone(t *turn) bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// mostTurns returns 1 unless the copy is pure and the last poll succeeded. It leaves one connection of the pool to
// others, since each page keeps its own while it waits for the page before it.
func (a *applier) mostTurns() int {
	if !a.pure || a.owned || a.state.fails() > 0 { // pages of two sources could wait for each other
		return 1
	}
	return min(maxTurns, int(a.pool.Config().MaxConns)-1)
}
