package subscribe

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// errFenced: somebody else moved the cursor.
var errFenced = errors.New("another process copies this feed into the same database")

// applyCarefully applies the entries, each the newest of its entity, in tx, but those that are bad: it returns them, for reject.
// No statement may take longer than step. What has run into that before is tried last, and alone.
func (p *poller) applyCarefully(ctx context.Context, tx pgx.Tx, entries []feed.Entry, step time.Duration) (bad []rejection, err error) {
	good, bad := p.check(entries)
	restore, err := limitSteps(ctx, tx, step)
	if err != nil {
		return nil, err
	}
	doubted, others := p.doubted(good)
	refused, err := p.applyBest(ctx, tx, others, step)
	for _, e := range doubted {
		if err == nil {
			var alone []rejection
			alone, err = p.applyBest(ctx, tx, []feed.Entry{e}, step)
			refused = append(refused, alone...)
		}
	}
	if err == nil && len(refused) < len(good) {
		refused, err = p.again(ctx, tx, refused, step)
	}
	bad = append(bad, refused...)
	if err == nil {
		err = restore()
	}
	return bad, err
}

// again tries once more what has failed for a reason that may have been that of a moment, or of another entry, such as a name that
// the other one has given up since: as long as one more passes.
func (p *poller) again(ctx context.Context, tx pgx.Tx, refused []rejection, step time.Duration) (still []rejection, err error) {
	for more := true; more; refused = still {
		more, still = false, nil
		for _, r := range refused {
			if badData(r.reason) && !ofOthers(r.reason) || passing(r.reason) {
				still = append(still, r)
				continue
			}
			failed, err := p.attempt(ctx, tx, []feed.Entry{r.Entry}, true, step)
			if err != nil {
				return nil, err
			}
			if more = more || failed == nil; failed != nil {
				still = append(still, r)
			}
		}
	}
	return still, nil
}

// clear takes entities off the list of those rejected: what was applied is good, whatever was wrong with them before.
func (p *poller) clear(ctx context.Context, tx pgx.Tx, ids ...uuid.UUID) error {
	_, err := tx.Exec(ctx, `delete from rejected_entry where service = $1 and feed = $2 and entity_id = any($3)`,
		p.service, p.Name, ids)
	return err
}

// call runs the service's Apply; a panic of it is an error. Of what is stored nothing need be known.
func (p *poller) call(ctx context.Context, tx pgx.Tx, entries []feed.Entry, stored map[uuid.UUID]int64) (err error) {
	defer func() {
		if v := recover(); v != nil {
			panicked := &panicError{"apply", v}
			p.logger.ErrorContext(ctx, "apply panicked", "feed", p.Name, "panic", panicked.unquoted(), "stack", string(debug.Stack()))
			err = panicked
		}
		if err != nil {
			err = &applyError{err}
		}
	}()
	batch := NewBatch(entries)
	batch.stored = stored
	if p.Apply == nil { // the service has had the entries
		return nil
	}
	if p.Past {
		err := tx.QueryRow(ctx, `select past from subscription where service = $1 and feed = $2`, p.service, p.Name).Scan(&batch.Past)
		if err != nil {
			return err
		}
	}
	return p.Apply(ctx, tx, batch)
}

// passOn runs the service's Entries, if it has any, for what of the page is not malformed; a panic of it is an error.
func (p *poller) passOn(ctx context.Context, from feed.Cursor, page *feed.Page) (err error) {
	if p.Entries == nil || page == nil {
		return nil
	}
	if slices.ContainsFunc(page.Entries, malformed) {
		good := *page
		good.Entries = slices.DeleteFunc(slices.Clone(page.Entries), malformed)
		page = &good
	}
	if len(page.Entries) == 0 {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			panicked := &panicError{"entries", v}
			p.logger.ErrorContext(ctx, "entries panicked", "feed", p.Name, "panic", panicked.unquoted(), "stack", string(debug.Stack()))
			err = errors.New(panicked.unquoted())
		}
		if err != nil {
			err = &entriesError{from, err}
		}
	}()
	return p.Entries(ctx, p.pool, from, page)
}

func malformed(e feed.Entry) bool { return e.Malformed() != nil }

// An entriesError is one of the service's Entries: the source is not at fault.
type entriesError struct {
	from feed.Cursor
	err  error
}

func (e *entriesError) Error() string {
	return fmt.Sprintf("pass on the page after %s: %v", e.from, e.err)
}
func (e *entriesError) Unwrap() error { return e.err }

// attempt applies entries under a savepoint, and takes that back if Apply fails, or takes too long, or unless it is to be kept.
// failed is why it did while the database goes on to answer; err is why that does not.
func (p *poller) attempt(ctx context.Context, tx pgx.Tx, entries []feed.Entry, keep bool, step time.Duration) (failed, err error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	limited, end := limitAttempt(ctx, inner, step)
	failed = p.call(limited, inner, entries, nil)
	if out, ok := inner.(*publish.Tx); ok && failed == nil {
		failed = out.Check(limited)
	}
	if failed == nil { // what would break at the commit, breaks here; what comes next may put it off again
		_, failed = inner.Exec(limited, `set constraints all immediate; set constraints all deferred`)
	}
	failed = end(failed)
	if failed == nil && keep {
		return nil, inner.Commit(ctx)
	}
	if err := inner.Rollback(ctx); err != nil {
		return nil, errors.Join(failed, err)
	}
	if databaseAtFault(failed) {
		return nil, failed
	}
	return failed, nil
}

// applyBest applies all entries but the bad ones, which it finds by halving.
func (p *poller) applyBest(ctx context.Context, tx pgx.Tx, entries []feed.Entry, step time.Duration) (bad []rejection, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	failed, err := p.attempt(ctx, tx, entries, true, step)
	switch half := len(entries) / 2; {
	case err != nil || failed == nil:
		return nil, err
	case half == 0:
		return []rejection{{Entry: entries[0], reason: failed}}, nil
	default:
		first, err := p.applyBest(ctx, tx, entries[:half], step)
		if err != nil {
			return nil, err
		}
		second, err := p.applyBest(ctx, tx, entries[half:], step)
		return append(first, second...), err
	}
}

// reject writes down the bad entries.
func (p *poller) reject(ctx context.Context, tx pgx.Tx, bad []rejection) error {
	for _, r := range bad {
		_, err := tx.Exec(ctx, `
			insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason)
			values ($1, $2, $3, $4, $5, $6, $7, $8)
			on conflict (service, feed, entity_id) do update set version = excluded.version, position = excluded.position,
			       updated = excluded.updated, entity = excluded.entity, reason = excluded.reason,
			       rejected_at = now(), attempts = rejected_entry.attempts + 1`,
			p.service, p.Name, r.ID, r.Version, r.Position, r.Updated, []byte(r.Entity),
			strings.ToValidUTF8(strings.ReplaceAll(whole(r.reason), "\x00", "�"), "�"))
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *poller) logRejected(ctx context.Context, bad []rejection) {
	for _, r := range bad {
		p.logger.WarnContext(ctx, "entry rejected", "feed", p.Name, "position", r.Position, "entity", r.ID.String(), "version", r.Version, "error", unquoted(r.reason))
	}
}

// Newer gives the entries that are newer than the rows in Table: what the engine lets Apply see. Of an entity that was rejected, the
// row is older than what was, and may be of another history: then the rejected version counts.
func (f *Feed) Newer(ctx context.Context, tx pgx.Tx, entries []feed.Entry) ([]feed.Entry, error) {
	var b pgx.Batch
	known := noneKnown()
	f.lookUp(&b, entries, true, known)
	err := tx.SendBatch(ctx, &b).Close()
	return known.newer(entries), err
}

// known are the versions of a page's entities that the copy has, and of those that it has rejected.
type known struct{ rows, rejected map[uuid.UUID]int64 }

func noneKnown() *known { return &known{map[uuid.UUID]int64{}, map[uuid.UUID]int64{}} }

// lookUp makes b find them. (PostgreSQL plans a statement that takes a list every time, so each table has its own, and the second
// is left out where nothing is rejected.)
func (f *Feed) lookUp(b *pgx.Batch, entries []feed.Entry, rejected bool, k *known) {
	ids := make([]uuid.UUID, len(entries))
	for i, e := range entries {
		ids[i] = e.ID
	}
	into := func(versions map[uuid.UUID]int64) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			var id [16]byte
			var version int64
			_, err := pgx.ForEachRow(rows, []any{&id, &version}, func() error {
				versions[id] = version
				return nil
			})
			return err
		}
	}
	if f.Table != "" {
		b.Queue(`select id, version from `+f.table()+` where id = any($1)`, ids).Query(into(k.rows))
	}
	if rejected {
		b.Queue(`
			select entity_id, version from rejected_entry join subscription using (service, feed)
			 where entity_id = any($1) and table_name = $2`, ids, f.Table).Query(into(k.rejected))
	}
}

func (k *known) newer(entries []feed.Entry) []feed.Entry {
	if len(k.rows)+len(k.rejected) == 0 && !slices.ContainsFunc(entries, malformed) {
		return entries
	}
	newer := make([]feed.Entry, 0, len(entries))
	passed := map[uuid.UUID]int64{} // of those here
	for _, e := range entries {
		rejected, is := k.rejected[e.ID]
		row, has := k.rows[e.ID]
		if malformed(e) { // what it says the version is may be wrong: it must not hold back later ones
			known := max(rejected, row, passed[e.ID])
			e.Version = min(max(e.Version, known), known+1)
			newer = append(newer, e)
		} else if e.Erased || is && e.Version >= rejected || !is && (!has || e.Version > row) {
			passed[e.ID] = e.Version
			newer = append(newer, e)
		}
	}
	return newer
}

func (f *Feed) table() string { return pgx.Identifier{f.Table}.Sanitize() }
