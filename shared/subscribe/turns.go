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
	"github.com/edison-cars/data-feeds/shared/publish"
)

// A turn is a page's, to be applied.
type turn struct {
	ids  map[uuid.UUID]bool
	done chan struct{}
	err  error // when done
}

// maxTurns is how many pages of a pure copy are applied at once: while one waits until those before it are committed, others are written.
const maxTurns = 3

// turns are those under way, in order: one, or up to most where one may go on beside the next.
type turns struct {
	most int
	all  []*turn
}

// wait waits until no more than so many are under way, and gives the first error of those that have ended: behind that none goes on.
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

// applyPage applies a page after those before it. That of a pure copy goes on beside the next ones, if no entity is on both: it
// still is committed first. (After a failure none does: what they may have been to each other ends there.)
func (p *poller) applyPage(ctx context.Context, t *turns, page *feed.Page, from, to progress) error {
	page, err := p.forget(ctx, page)
	if err != nil {
		return err
	}
	var entries []feed.Entry
	if page != nil && (p.Apply != nil || p.hasRejected() || slices.ContainsFunc(page.Entries, malformed)) {
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
	if err := p.passOn(ctx, from.cursor, page); err != nil {
		return err
	}
	var before *turn
	if len(t.all) > 0 {
		before = t.all[len(t.all)-1]
	}
	t.all = append(t.all, now)
	apply := func() {
		defer close(now.done)
		now.err = p.commit(ctx, entries, from, to, before)
	}
	if beside {
		go apply()
		return nil
	}
	apply()
	return t.wait(0)
}

func overlap(a, b map[uuid.UUID]bool) bool {
	for id := range a {
		if b[id] {
			return true
		}
	}
	return false
}

// commit moves the cursor and applies the entries, both or neither. When ctx ends it has stopTimeout to finish. What
// fails as a whole is tried again in parts, to find what is at fault.
func (p *poller) commit(ctx context.Context, entries []feed.Entry, from, to progress, before *turn) error {
	ctx, cancel := finishing(ctx)
	defer cancel()
	began := time.Now()
	doubted, _ := p.doubted(entries)
	carefully := len(doubted) > 0 && len(entries) > 1
	bad, err := p.tryCommit(ctx, entries, from, to, before, carefully)
	if err != nil && before != nil {
		if <-before.done; before.err != nil {
			return before.err
		}
	}
	_, refused := errors.AsType[*refusedError](err)
	whole := err == nil
	if !whole && !carefully && len(entries) > 0 && !refused && !errors.Is(err, errFenced) && !errors.Is(err, ErrTooMuch) && !databaseAtFault(err) && p.answers(ctx) {
		bad, err = p.tryCommit(ctx, entries, from, to, before, true)
	}
	if err != nil {
		return &pageError{"apply the page after " + from.cursor.String(), to.cursor.Position - from.cursor.Position, err}
	}
	p.metrics.apply.Observe(time.Since(began).Seconds())
	p.logRejected(ctx, bad)
	p.see(entries, bad)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range entries {
		delete(p.doubts, doubtful{e.ID, e.Version})
	}
	if whole { // else another one of this size is enough
		p.grow()
	}
	p.rejecting = p.rejecting || len(bad) > 0
	now := &p.copied // what was set meanwhile stays; the next look counts what was rejected
	if succeeded(from, to) {
		now.failingSince, now.stale = time.Time{}, false
		p.saySucceeded(to)
	}
	now.cursor, now.etag, now.etagURL, now.headPosition, now.asOf, now.lastSuccess = to.cursor, to.etag, to.etagURL, to.headPosition, to.asOf, to.lastSuccess
	return nil
}

// see keeps the last of the entries that has passed: what is refused alone is measured by it.
func (p *poller) see(entries []feed.Entry, bad []rejection) {
	for _, e := range slices.Backward(entries) {
		if !e.Deleted && !slices.ContainsFunc(bad, func(r rejection) bool { return r.ID == e.ID }) {
			p.witness.Store(&e)
			return
		}
	}
}

func (p *poller) tryCommit(ctx context.Context, entries []feed.Entry, from, to progress, before *turn, carefully bool) (bad []rejection, err error) {
	timeout := p.timeout
	if carefully {
		timeout *= 3 // as many steps as it takes to find one of a thousand that takes as long as it may
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	alone := before == nil || isDone(before)
	if alone && !carefully && p.Columns != nil && p.Check == nil && len(entries) < copyFrom && !p.hasRejected() {
		return nil, p.upsertAtOnce(ctx, entries, from, to)
	}
	known, look := p.guess(entries), false
	if known == nil || carefully {
		known, look = noneKnown(), len(entries) > 0
	}
	// The cursor goes first, where it can: a second process then waits for this one and is fenced before it works.
	err = p.inTx(ctx, func(first *pgx.Batch) {
		if alone {
			p.move(first, from, to)
		}
		if look {
			p.lookUp(first, entries, p.hasRejected(), known)
		}
	}, func(tx pgx.Tx) error {
		if len(entries) > 0 {
			end := succeeded(from, to) || p.limit() >= feed.MaxPageSize // of what can be had at once
			if bad, err = p.applyNewer(ctx, tx, entries, known, carefully, end); err != nil {
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
		p.move(&last, from, to)
		return tx.SendBatch(ctx, &last).Close()
	})
	if err == nil && len(entries) > 0 {
		p.mu.Lock()
		p.allNew = len(known.rows) == 0
		p.mu.Unlock()
	}
	return bad, err
}

// guess gives what the copy knows of entries, which is nothing, without a look at it; nil: one is due. After a page of new entities
// only, a pure copy takes for granted that the next is such a one: where not, COPY fails, and the careful second try looks.
func (p *poller) guess(entries []feed.Entry) *known {
	p.mu.Lock()
	defer p.mu.Unlock()
	odd := func(e feed.Entry) bool { return e.Deleted || malformed(e) }
	if p.Columns == nil || !p.allNew || p.rejecting || len(entries) < copyFrom || slices.ContainsFunc(entries, odd) {
		return nil
	}
	return noneKnown()
}

// upsertAtOnce does it for a pure copy by one packet, which PostgreSQL takes for one transaction: the statements see themselves what is
// newer than the copy.
func (p *poller) upsertAtOnce(ctx context.Context, entries []feed.Entry, from, to progress) error {
	return p.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		u, err := newUpsert(ctx, conn.Conn(), p.Table, p.Columns)
		if err != nil {
			return err
		}
		var b pgx.Batch
		p.move(&b, from, to)
		for _, e := range entries {
			if e.Deleted {
				b.Queue(`delete from `+u.table+` where id = $1 and (version < $2 or $3)`, e.ID, e.Version, e.Erased)
			} else if err := u.queue(&b, u.newer, e); err != nil {
				return err
			}
		}
		return conn.SendBatch(ctx, &b).Close()
	})
}

// move queues what moves the cursor. It fails where that is not where it was, or a walk has begun, and with it the whole transaction.
func (p *poller) move(b *pgx.Batch, from, to progress) {
	sql := `
		update subscription set cursor = case when cursor = $3 and walk_cursor is null then $4 end, -- else null, which it cannot be
		       etag = $5, etag_url = $6, head_position = $7, as_of = $8, last_success_at = $9,
		       failing_since = case when not $10 then failing_since end, stale = stale and not $10
		 where service = $1 and feed = $2`
	if p.pure { // what a crash of the database takes, it takes with its cursor: the source still has it
		sql += ` returning set_config('synchronous_commit', 'off', true)`
	}
	b.Queue(sql,
		p.service, p.Name, from.cursor.String(), to.cursor.String(), to.etag, to.etagURL,
		to.headPosition, timeOrNull(to.asOf), timeOrNull(to.lastSuccess), succeeded(from, to),
	).Fn = func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == notNullViolation {
			return errFenced
		}
		return cmp.Or(err, fenced(tag))
	}
}

// succeeded reports whether a poll ended on the way.
func succeeded(from, to progress) bool { return !to.lastSuccess.Equal(from.lastSuccess) }

// saySucceeded tells the service, which may act by its copies, that one is up to date.
func (p *poller) saySucceeded(to progress) {
	if p.acting != nil {
		p.acting.Polled(p.Name, to.lastSuccess)
	}
}

const notNullViolation = "23502"

// applyNewer applies those of the entries that are newer than what is known. end: no page has others beside them.
func (p *poller) applyNewer(ctx context.Context, tx pgx.Tx, entries []feed.Entry, known *known, carefully, end bool) (bad []rejection, err error) {
	if entries = known.newer(entries); len(entries) == 0 {
		return nil, nil
	}
	if carefully {
		bad, err = p.applyCarefully(ctx, tx, entries, p.step())
	} else {
		var good []feed.Entry
		if good, bad = p.check(entries); len(good) > 0 {
			err = p.call(ctx, tx, good, known.rows)
		}
	}
	if err == nil {
		err = p.reject(ctx, tx, bad)
	}
	if err == nil {
		err = p.judge(ctx, tx, len(entries), bad, end)
	}
	if err == nil {
		err = p.settle(bad)
	}
	if err != nil {
		return nil, err
	}
	if len(known.rejected) == 0 {
		return bad, nil
	}
	return bad, p.clear(ctx, tx, good(entries, bad)...)
}

// good returns the ids of the entries that were not refused.
func good(entries []feed.Entry, bad []rejection) (ids []uuid.UUID) {
	for _, e := range entries {
		if !slices.ContainsFunc(bad, func(r rejection) bool { return r.ID == e.ID }) {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// hasRejected: there may be rejected entries of the feed.
func (p *poller) hasRejected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rejecting
}

// fenced looks whether the cursor was still where it moved from.
func fenced(tag pgconn.CommandTag) error {
	if tag.RowsAffected() == 0 {
		return errFenced
	}
	return nil
}

// inTx runs f in a transaction. The statements that first queues travel with what begins it. Where the service publishes, all runs
// again when somebody else appended first: it has no effect but in the transaction.
func (p *poller) inTx(ctx context.Context, first func(*pgx.Batch), f func(pgx.Tx) error) error {
	if p.log != nil {
		return p.log.InTx(ctx, func(tx *publish.Tx) error {
			var b pgx.Batch
			first(&b)
			if err := tx.SendBatch(ctx, &b).Close(); err != nil {
				return err
			}
			return f(tx)
		})
	}
	return p.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		var b pgx.Batch
		b.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted}) // what waits for a lock must see what its holder has done
		first(&b)
		results := conn.SendBatch(ctx, &b)
		tx, err := results.Tx(), results.Close()
		if tx != nil {
			defer func() { _ = tx.Rollback(ctx) }() // once it is committed that does nothing
		}
		if err == nil {
			err = f(tx)
		}
		if err == nil {
			err = tx.Commit(ctx)
		}
		return err
	})
}

func isDone(t *turn) bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}
