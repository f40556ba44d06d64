package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// resyncChunk is the number of entities that the end of a resync applies at once.
const resyncChunk = 1000

// A resyncer reads a feed again from its start.
type resyncer struct {
	*target
	row     *row
	state   *state
	fetcher *fetcher
	applier *applier
	metrics *pollerMetrics
}

// A resync reads the feed again, from its start to its end: because the source's history is another one, or because
// somebody asked for it. It only notes the newest version of each entity, while the copy serves as it is. At the end,
// one transaction makes the copy what the resync has noted.

const anotherHistory = "The source has another history than the copy had."

// begin begins a resync, or begins the one under way again. gone is the source's answer that its history is another
// one, or nil.
func (r *resyncer) begin(ctx context.Context, reason string, gone *feedclient.StatusError) error {
	var history feed.Cursor
	if gone != nil {
		history = gone.History
	}
	return r.beginIn(ctx, reason, history, gone != nil)
}

// beginIn begins a resync of the given history. gone reports whether the copy's history is another one.
func (r *resyncer) beginIn(ctx context.Context, reason string, history feed.Cursor, gone bool) error {
	limit, ok := ctx.Deadline() // of a request
	if !ok {
		limit = time.Now().Add(dbTimeout)
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), limit)
	defer cancel()
	err := r.inTx(ctx, func(first *pgx.Batch) {
		first.Queue(`
			update subscription set resync_cursor = '0', snapshot = null, compacted = null, resync_history = $3, resync_reason = $4, resync_since = now(),
			       lost_after = null, lost_since = null,
			       past = case when $5 and split_part(cursor, '-', 1)::bigint >= past -- its positions were the old history's
			                    and not exists (select from rejected_entry r where r.service = $1 and r.feed = $2 and coalesce(r.first_position, r.position) <= past)
			                    and not exists (select from skipped_entity s where s.service = $1 and s.feed = $2 and s.first_position <= past)
			              then 0 else past end
			 where service = $1 and feed = $2`, r.service, r.Name, history.String(), reason, gone)
		first.Queue(`delete from resynced_entity where service = $1 and feed = $2`, r.service, r.Name)
	}, func(pgx.Tx) error { return nil })
	if err != nil {
		return fmt.Errorf("begin a resync: %w", err)
	}
	level := slog.LevelWarn
	if gone && r.state.diverged() { // a source that has no history of its own says so at every poll
		level = slog.LevelDebug
	}
	r.logger.Log(ctx, level, "resync begins", "feed", r.Name, "reason", reason)
	return nil
}

// goOn continues a resync and ends it.
func (r *resyncer) goOn(ctx context.Context, at progress, scheduled bool) error {
	fetching, stop := context.WithCancel(ctx)
	defer stop()
	began := time.Now()
	so := pace{began: began, said: began}
	request := feedclient.Request{URL: r.URL, After: at.resync.cursor, History: at.resync.history, Snapshot: r.snapshotAt(at.resync.place)}
	for f := range r.fetcher.fetch(fetching, request, r.fetcher.limit) {
		switch stop := r.state.mayGoOn(ctx, scheduled); {
		case f.err != nil:
			return r.beginAgain(ctx, at, f.err)
		case stop != nil:
			return stop
		case f.Page == nil:
			return fmt.Errorf("%w: not modified, though nothing was there to modify", feed.ErrPage)
		}
		to := r.fetcher.behind(at, f, time.Since(began), time.Now())
		r.state.endsAt(to.headPosition)
		compacted, err := r.fetcher.confirm(ctx, at.compacted, f.Page, to.cursor, f.Page.UpToDate)
		if err != nil {
			return r.beginAgain(ctx, at, err)
		}
		if err := r.note(ctx, f.Page, at.resync.place, compacted); err != nil {
			return err
		}
		at.compacted = compacted
		r.fetcher.grow()
		at.resync.place, at.headPosition, at.asOf, at.lastSuccess = to.place, to.headPosition, to.asOf, to.lastSuccess
		r.state.copying(&so, f.Page, to)
		if !f.Page.UpToDate {
			continue
		}
		for {
			if !at.resync.lost.IsStart() {
				if err := r.lookUpLost(ctx, at, scheduled); err != nil {
					return r.beginAgain(ctx, at, err)
				}
			}
			if err := r.end(ctx, at); !errors.Is(err, errRefusedAgain) {
				return err
			}
		}
	}
	return ctx.Err()
}

// beginAgain returns the error of a request. If that says that the source has another history again, or no snapshot any
// more, the resync begins again.
func (r *resyncer) beginAgain(ctx context.Context, at progress, err error) error {
	reason := at.resync.reason
	if !at.resync.lost.IsStart() {
		reason = anotherHistory
	}
	if gone, ok := errors.AsType[*feedclient.StatusError](err); ok && errors.Is(err, feedclient.ErrDiverged) {
		return errors.Join(err, r.diverged(ctx, reason, gone, err))
	}
	if errors.Is(err, feed.ErrNoSnapshot) {
		return errors.Join(err, r.beginIn(ctx, reason, at.resync.history, false))
	}
	return err
}

// note stores the newest versions on a page, and moves the resync's place behind it. A page after those of a snapshot may
// have an older version than they: the newer one comes again behind it.
func (r *resyncer) note(ctx context.Context, page *feed.Page, from place, compacted feed.Cursor) error {
	var ids, good []uuid.UUID
	var versions, positions, firsts, goodPositions []int64
	var updated []time.Time
	var entities [][]byte
	var bad []bool
	page, err := r.applier.erasures.forget(ctx, page)
	if err != nil {
		return err
	}
	if err := r.passOn(ctx, from.cursor, page); err != nil {
		return err
	}
	ctx, stop := finishing(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	isBad := r.applier.quarantine.isBad
	for _, e := range page.Latest(isBad) {
		if r.Apply == nil && !malformed(e) {
			continue
		}
		if bad = append(bad, isBad(e)); !bad[len(bad)-1] {
			good, goodPositions = append(good, e.ID), append(goodPositions, e.Position)
		}
		ids, versions, positions = append(ids, e.ID), append(versions, e.Version), append(positions, e.Position)
		firsts = append(firsts, e.First)
		updated, entities = append(updated, e.Updated), append(entities, storable(e))
	}
	return r.inTx(ctx, func(first *pgx.Batch) {
		at := placeAfter(page)
		cursor, snapshot := from.columns()
		toCursor, toSnapshot := at.columns()
		first.Queue(`
			update subscription set resync_cursor = $4, snapshot = $6, snapshot_since = resync_since, compacted = nullif($7, '0')
			 where service = $1 and feed = $2 and resync_cursor = $3 and `+currentSnapshot+` is not distinct from $5`,
			r.service, r.Name, cursor, toCursor, snapshot, toSnapshot, compacted.String()).Exec(fenced)
		if skipped := superseded(page); len(skipped) > 0 && r.Apply != nil { // older notes stay, newer ones replace these
			r.noteSuperseded(first, skipped)
		}
		first.Queue(`
			insert into resynced_entity as known (service, feed, id, version, position, updated, entity, bad, first_position)
			select $1, $2, id, version, position, updated, entity, bad, nullif(first, 0)
			  from unnest($3::uuid[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bytea[], $8::boolean[], $9::bigint[])
			       as e (id, version, position, updated, entity, bad, first)
			on conflict (service, feed, id, bad) do update
			   set version = excluded.version, position = excluded.position, updated = excluded.updated, entity = excluded.entity, superseded = false, lost = false,
			       first_position = least(known.first_position, nullif(known.position, 0), excluded.first_position, excluded.position)`,
			r.service, r.Name, ids, versions, positions, updated, entities, bad, firsts)
		first.Queue(`
			with gone as (
			     delete from resynced_entity w using unnest($3::uuid[], $4::bigint[]) as good (id, position)
			      where service = $1 and feed = $2 and w.id = good.id and bad and w.position < good.position
			     returning w.id, coalesce(first_position, w.position) as first)
			update resynced_entity w set first_position = least(first_position, position, first) from gone
			 where service = $1 and feed = $2 and w.id = gone.id and not bad`,
			r.service, r.Name, good, goodPositions)
		if slices.Contains(bad, true) {
			first.Queue(emptyNoted, r.service, r.Name)
		}
	}, func(pgx.Tx) error { return nil })
}

// noteSuperseded queues the statement that notes that the source has the entities of superseded entries.
func (r *resyncer) noteSuperseded(b *pgx.Batch, skipped []feed.Entry) {
	var ids []uuid.UUID
	var versions, positions, firsts []int64
	var updated []time.Time
	for _, e := range skipped {
		ids, versions, positions = append(ids, e.ID), append(versions, e.Version), append(positions, e.Position)
		firsts, updated = append(firsts, e.First), append(updated, e.Updated)
	}
	b.Queue(`
		insert into resynced_entity (service, feed, id, version, position, updated, superseded, first_position)
		select $1, $2, id, version, position, updated, true, nullif(first, 0)
		  from unnest($3::uuid[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bigint[]) as e (id, version, position, updated, first)
		on conflict do nothing`, r.service, r.Name, ids, versions, positions, updated, firsts)
}

// end makes the copy what the resync has noted. Apply gets as deletions what the source no longer has, and then all
// entities again, in the order of the feed. All of it becomes visible at once, however long it takes: a stop rolls it
// back, and the next start does it again. Meanwhile only what would move the cursor waits: settings have rows of their
// own, and rejected entries are changed last.
func (r *resyncer) end(ctx context.Context, at progress) error {
	if err := r.completeNoted(ctx); err != nil {
		return &pageError{what: "the copy pauses before the end of the resync", err: err}
	}
	lost := at.resync.lost
	if r.Apply != nil && lost.IsStart() {
		r.applier.quarantine.passed.Store(false) // in another history the check may refuse every entry: then the copy stays
		r.applier.quarantine.witness.Store(nil)
		r.applier.quarantine.sought.Store(false)
	}
	again, err := r.cameAgain(ctx, lost)
	if err != nil {
		return err
	}
	var applied int
	var gone []uuid.UUID
	var bad []rejection
	var refused []uuid.UUID // of the lost end, and their older versions were not looked up
	err = r.inTx(ctx, func(first *pgx.Batch) {
		first.Queue(`
			update subscription set cursor = resync_cursor, etag = '', etag_url = '', head_position = $4, as_of = $5, last_success_at = $6,
			       failing_since = null, stale = false,
			       resync_cursor = null, compacted = null, resync_history = '0', resync_since = null, lost_after = null, lost_since = null,
			       generation = generation + 1, resynced_at = now(), resynced_reason = resync_reason
			 where service = $1 and feed = $2 and resync_cursor = $3 and coalesce(columns = $7, true) and table_name = $8
			       and coalesce(`+currentLost+`, '0') = $9`,
			r.service, r.Name, at.resync.cursor.String(), at.headPosition, timeOrNull(at.asOf), timeOrNull(at.lastSuccess), r.columns(), r.Table, lost.String()).Exec(fenced)
		r.keepResynced(first, lost, at.resync.cursor)
	}, func(tx pgx.Tx) (err error) {
		if err := r.forgetNoted(ctx, tx); err != nil {
			return err
		}
		if r.Past && !lost.IsStart() {
			if err := r.knowFirsts(ctx, tx); err != nil {
				return err
			}
		}
		var badGone []rejection
		if r.Apply != nil { // first, since a deleted entity may have a unique name that another one has now
			if gone, badGone, err = r.deleteGone(ctx, tx, lost); err != nil {
				return err
			}
		}
		if applied, bad, err = r.applyNoted(ctx, tx); err != nil {
			return err
		}
		if r.Apply != nil { // a feed with Entries has notes of rejected entries only, so there are no others to judge by
			if err := r.applier.quarantine.judge(ctx, tx, applied, bad); err != nil {
				return err
			}
			if bad, err = r.againNoted(ctx, tx, append(bad, badGone...)); err != nil {
				return err
			}
			if err := r.applier.quarantine.settle(bad); err != nil {
				return err
			}
			refused = nil
			for _, b := range bad {
				if again[b.ID] == b.Position && b.Position > 0 {
					refused = append(refused, b.ID)
				}
			}
			if len(refused) > 0 {
				return errRefusedAgain
			}
		}
		for _, sql := range []string{
			`delete from rejected_entry e where service = $1 and feed = $2 and ($3 = 0 or position > $3 or ` + fmt.Sprintf(isNoted, "entity_id") + `)`,
			`delete from skipped_entity e where service = $1 and feed = $2 and ($3 = 0 or ` + fmt.Sprintf(isNoted, "id") + `)`,
			`delete from resynced_entity where service = $1 and feed = $2 and $3 >= 0`,
		} {
			if _, err := tx.Exec(ctx, sql, r.service, r.Name, lost.Position); err != nil {
				return err
			}
		}
		return r.applier.quarantine.reject(ctx, tx, bad)
	})
	if errors.Is(err, errRefusedAgain) {
		return cmp.Or(r.loseAgain(ctx, at, refused), err)
	}
	_, ended := errors.AsType[*sessionError](err)
	_, allRefused := errors.AsType[*refusedError](err)
	if ended || allRefused && !lost.IsStart() { // with a witness, the next attempt may tell why
		r.applier.quarantine.seekWitness(ctx, r.fetcher.client)
	}
	if err != nil {
		return &pageError{what: "apply the resync", err: err}
	}
	r.applier.quarantine.trustAll()
	r.saySucceeded(at)
	r.metrics.resyncs.Inc()
	r.applier.quarantine.logRejected(ctx, bad)
	r.applier.tryAgain(ctx, gone)
	r.logger.InfoContext(ctx, "resync ended", "feed", r.Name, "reason", at.resync.reason, "entities", applied, "gone", len(gone), "cursor", at.resync.cursor.String())
	_, err = r.row.load(ctx)
	return err
}

// isNoted is the condition that a resync has noted something of the entity of row e.
const isNoted = `exists (select from resynced_entity w where w.service = $1 and w.feed = $2 and w.id = e.%s)`

// completeNoted returns an error if Complete does for an entity that the resync has noted.
func (r *resyncer) completeNoted(ctx context.Context) error {
	for last := (feed.Entry{}); r.Complete != nil; {
		entries, err := r.noted(ctx, r.pool, last)
		if err == nil {
			err = r.applier.quarantine.complete(entries)
		}
		if err != nil || len(entries) == 0 {
			return err
		}
		last = entries[len(entries)-1]
	}
	return nil
}

// noted returns the next entities that the resync has noted after last, in the order of the feed. Malformed ones of a
// snapshot may have the position of another one.
func (r *resyncer) noted(ctx context.Context, db rowsQuerier, last feed.Entry) ([]feed.Entry, error) {
	rows, err := db.Query(ctx, `
		select id, version, position, coalesce(first_position, 0), updated, entity from resynced_entity
		 where service = $1 and feed = $2 and (position, id) > ($3, $4) and entity is not null order by position, id limit $5`,
		r.service, r.Name, last.Position, last.ID, resyncChunk)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e feed.Entry, err error) {
		var entity []byte
		err = row.Scan(&e.ID, &e.Version, &e.Position, &e.First, &e.Updated, &entity)
		e.Updated, e.Entity = e.Updated.UTC(), entity
		return e, err
	})
}

func (r *resyncer) applyNoted(ctx context.Context, tx pgx.Tx) (applied int, bad []rejection, err error) {
	for last := (feed.Entry{}); ; {
		entries, err := r.noted(ctx, tx, last)
		if err != nil {
			return 0, nil, err
		}
		if len(entries) == 0 {
			return applied, bad, nil
		}
		rejected, err := r.applier.quarantine.applyCarefully(ctx, tx, entries, dbTimeout)
		if err != nil {
			return 0, nil, err
		}
		bad = append(bad, rejected...)
		applied, last = applied+len(entries), entries[len(entries)-1]
	}
}

// againNoted tries refused entries once more, after all else is as the source has it.
func (r *resyncer) againNoted(ctx context.Context, tx pgx.Tx, refused []rejection) (still []rejection, err error) {
	restore, err := limitSteps(ctx, tx, dbTimeout)
	if err == nil {
		still, err = r.applier.quarantine.again(ctx, tx, refused, dbTimeout)
	}
	if err == nil {
		err = restore()
	}
	return still, err
}

// deleteGone deletes what the copy has of this source and the source has not, and what the source says is deleted: a service may
// keep more of such an entity than its row. After a resync of the lost end, all such entities are noted.
func (r *resyncer) deleteGone(ctx context.Context, tx pgx.Tx, lost feed.Cursor) (gone []uuid.UUID, bad []rejection, err error) {
	const unknown = ` where $3 and not exists (select from resynced_entity w where w.service = $1 and w.feed = $2 and w.id = t.id and (w.entity is not null or w.superseded))`
	sql, args := `
		select id from resynced_entity where service = $1 and feed = $2 and entity is null and not superseded
		 union select t.id from `+r.table()+` t`+unknown, []any{r.service, r.Name, lost.IsStart()}
	if r.owned {
		sql, args = sql+` and `+r.mayOwn("t.id", 1, 4, 5)+` union select t.id from entity_owner t`+unknown+` and t.service = $1 and t.feed = $4 and t.source = $5`,
			append(args, r.feed, r.Source)
	}
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, nil, err
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e feed.Entry, err error) {
		e.Deleted = true // without a version: any version of this history is newer, if the deletion is refused
		err = row.Scan(&e.ID)
		gone = append(gone, e.ID)
		return e, err
	})
	for len(entries) > 0 && err == nil {
		n := min(resyncChunk, len(entries))
		var rejected []rejection
		rejected, err = r.applier.quarantine.applyCarefully(ctx, tx, entries[:n], dbTimeout)
		bad, entries = append(bad, rejected...), entries[n:]
	}
	return gone, bad, err
}
