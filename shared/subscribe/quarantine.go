package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// If a page cannot be applied, either an entry or the service is at fault. An entry is at fault if it fails alone while
// another entry passes and the database answers. It is rejected, and the rest is applied. If no entry passes, the
// service may be at fault: nothing is rejected, and the poll fails. At the end of a feed, where no other entries
// follow, and on a page of the largest size, an entry that the copy has taken before is tried again as the witness.

// A quarantine rejects entries that cannot be applied, and decides whether they or the service are at fault.
type quarantine struct {
	*target
	passed  atomic.Bool                // the feed's Check has passed an entry
	looked  feed.Cursor                // how far seeCheck has searched
	witness atomic.Pointer[feed.Entry] // the last entry that was applied; nil means none since the start
	sought  atomic.Bool                // seekWitness has searched

	mu     sync.Mutex
	doubts map[doubtful]doubt // of pages that were not applied
}

// A rejection is an entry that cannot be applied.
type rejection struct {
	feed.Entry
	reason  error
	checked bool // it is malformed or was refused by Check, and never reached Apply
}

// A checkError says what Check, or the parser, found wrong with an entry. Its text can be logged.
type checkError struct{ error }

func (e *checkError) Unwrap() error { return e.error }

// check separates entries that are malformed or break the contract from the others.
func (q *quarantine) check(entries []feed.Entry) (good []feed.Entry, bad []rejection) {
	good = make([]feed.Entry, 0, len(entries))
	for _, e := range entries {
		if err := q.checkOne(e); err != nil {
			bad = append(bad, rejection{e, err, true})
			continue
		}
		good = append(good, e)
		if !e.Deleted && !q.passed.Load() {
			q.passed.Store(true)
		}
	}
	return good, bad
}

func (q *quarantine) isBad(e feed.Entry) bool { return q.checkOne(e) != nil }

func (q *quarantine) checkOne(e feed.Entry) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{"check", v}
		}
	}()
	if string(e.Entity) == nothingKept {
		return &checkError{errNotKept}
	}
	if err = e.Malformed(); err == nil && q.Check != nil {
		err = q.Check(e)
	}
	if err != nil {
		err = &checkError{err}
	}
	return err
}

// lookPages is the number of pages in which one poll searches for an entry that the check passes.
const lookPages = 10

// seeCheck searches for an entry that Check passes, on the feed's first page and then from the cursor of the copy on.
// It searches only if Check refused a whole page and has passed nothing since the process started. A long search
// continues with the next poll.
func (q *quarantine) seeCheck(ctx context.Context, fetcher *fetcher, at progress, err error) (passes bool) {
	if refused, ok := errors.AsType[*refusedError](err); !ok || !refused.checked || q.passed.Load() {
		return false
	}
	if q.looked.Position < at.cursor.Position {
		q.looked = at.cursor
	}
	for i := range lookPages {
		r := feedclient.Request{URL: q.URL, Limit: feed.PageSize}
		if i > 0 {
			r.After, r.Limit = q.looked, fetcher.limit()
		}
		answer, err := fetcher.client.Get(ctx, r)
		if err != nil {
			q.looked = feed.Cursor{} // it may be of another history
			break
		}
		if i > 0 {
			q.looked = answer.Page.Cursor
		}
		if q.check(answer.Page.Entries); q.passed.Load() || answer.Page.UpToDate {
			break
		}
	}
	return q.passed.Load()
}

// seekWitness searches the feed's first entries, once, for one that the copy has, if nothing has passed since the process
// started. Without a witness, judge has less to go by.
func (q *quarantine) seekWitness(ctx context.Context, client *feedclient.Client) {
	if q.witness.Load() != nil || q.sought.Swap(true) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	answer, err := client.Get(ctx, feedclient.Request{URL: q.URL, Limit: feed.PageSize})
	if err != nil {
		return
	}
	good, _ := q.check(answer.Page.Latest(q.isBad))
	var b pgx.Batch
	known := noneKnown()
	q.lookUp(&b, good, true, known)
	if q.pool.SendBatch(ctx, &b).Close() != nil {
		return
	}
	for _, e := range good {
		_, rejected := known.rejected[e.ID]
		if !e.Deleted && !rejected && known.rows[e.ID] == e.Version {
			q.witness.Store(&e)
			return
		}
	}
}

// A readding is the outcome of an attempt to apply the witness as if it were new to the copy.
type readding struct {
	refused error // by Apply; nil means that it passed, or that nothing is known
	known   bool
}

// readd deletes the witness and applies it again, before anything else of tx, and leaves no trace: Apply should take what
// the copy has. That shows nothing if the copy has another version of the witness, or if Apply keeps the row.
func (q *quarantine) readd(ctx context.Context, tx pgx.Tx) (of readding, err error) {
	witness := q.witness.Load()
	if witness == nil || q.Table == "" {
		return of, nil
	}
	restore, err := limitSteps(ctx, tx, q.step())
	if err != nil {
		return of, err
	}
	outer, err := tx.Begin(ctx)
	if err != nil {
		return of, err
	}
	has := func(version int64) (is bool, err error) {
		err = outer.QueryRow(ctx, `select exists (select from `+q.table()+` where id = $1 and version >= $2)`, witness.ID, version).Scan(&is)
		return is, err
	}
	gone := *witness
	gone.Deleted, gone.Entity = true, nil
	same, err := has(witness.Version)
	if err == nil && same {
		var failed error
		failed, err = q.attempt(ctx, outer, []feed.Entry{gone}, true, q.step())
		if err == nil && failed == nil {
			same, err = has(0)
			of.known = !same
		}
	}
	if err == nil && of.known {
		of.refused, err = q.attempt(ctx, outer, []feed.Entry{*witness}, false, q.step())
	}
	if err = cmp.Or(err, outer.Rollback(ctx)); err == nil {
		err = restore()
	}
	return of, err
}

// A trial is what came of entries that Check and Apply got.
type trial struct {
	entries   int
	bad       []rejection
	rows      map[uuid.UUID]int64 // versions that the copy had before, at least of the refused entities
	newPassed bool                // an entity that the copy had not
	readding
	end bool // no larger page is available, in which other entries could pass
}

// judge returns a *refusedError if the service may be at fault: if no entry passed, or if it may refuse everything that
// is new. But a single entry, or with end all of them, are at fault if Apply still takes the witness. Without a witness,
// a single entry is at fault if its error is one of data.
func (q *quarantine) judge(ctx context.Context, tx pgx.Tx, t trial) error {
	var checked int
	var alone rejection
	for _, r := range t.bad {
		if r.checked {
			checked++
			continue
		}
		if alone = r; t.refusesNew(r) {
			return &refusedError{entries: t.entries, refused: len(t.bad), first: r.reason}
		}
	}
	applied, refused := t.entries-checked, len(t.bad)-checked
	switch {
	case refused < applied, len(t.bad) == 0:
		return nil
	case applied == 0 && (t.entries == 1 || q.passed.Load()):
		return nil
	case applied == 1 || applied > 1 && t.end:
		if known := q.witness.Load(); known == nil {
			if applied == 1 && badData(alone.reason) {
				return nil
			}
		} else if failed, err := q.attempt(ctx, tx, []feed.Entry{*known}, false, q.step()); err != nil || failed == nil {
			return err
		}
	}
	return &refusedError{entries: t.entries, refused: len(t.bad), checked: applied == 0, first: t.bad[0].reason}
}

// refusesNew reports whether Apply may have refused the entry because it refuses everything that is new to the copy. It
// does not if something new has passed, or if the witness passes as if it were new. It does if it refuses the witness,
// too, for the same reason, or if the database lacks what the statements of Apply or of a trigger need.
func (t *trial) refusesNew(r rejection) bool {
	if _, had := t.rows[r.ID]; had || r.Deleted || t.newPassed || t.known && t.refused == nil {
		return false
	}
	return t.known && whole(t.refused) == whole(r.reason) || lacking(r.reason)
}

// A refusedError means that entries of a page were refused, and that no entry is at fault.
type refusedError struct {
	entries int
	refused int  // of them
	checked bool // the check refused all of them
	first   error
}

func (e *refusedError) Error() string {
	if e.refused < e.entries {
		return fmt.Sprintf("%d of the %d entries were refused, as good ones would be, the first: %s", e.refused, e.entries, unquoted(e.first))
	}
	return fmt.Sprintf("every one of the %d entries was refused, the first: %s", e.entries, unquoted(e.first))
}

func (e *refusedError) Unwrap() error { return e.first }

// applyCarefully applies the entries in tx, each the newest of its entity, except the bad ones, which it returns for
// reject. No statement may take longer than step. Entries that have exceeded that before are tried last, one by one.
func (q *quarantine) applyCarefully(ctx context.Context, tx pgx.Tx, entries []feed.Entry, step time.Duration) (bad []rejection, err error) {
	good, bad := q.check(entries)
	restore, err := limitSteps(ctx, tx, step)
	if err != nil {
		return nil, err
	}
	doubted, others := q.doubted(good)
	refused, err := q.applyBest(ctx, tx, others, step)
	for _, e := range doubted {
		if err == nil {
			var alone []rejection
			alone, err = q.applyBest(ctx, tx, []feed.Entry{e}, step)
			refused = append(refused, alone...)
		}
	}
	if err == nil && len(refused) < len(good) {
		refused, err = q.again(ctx, tx, refused, step)
	}
	bad = append(bad, refused...)
	if err == nil {
		err = restore()
	}
	return bad, err
}

// again tries entries once more that may have failed because of another entry, such as one that has given up their
// unique name since. It leaves out entries that failed by their own data, or for a reason that may pass later. It
// continues as long as one more entry passes.
func (q *quarantine) again(ctx context.Context, tx pgx.Tx, refused []rejection, step time.Duration) (still []rejection, err error) {
	for more := true; more; refused = still {
		more, still = false, nil
		for _, r := range refused {
			if badData(r.reason) && !ofOthers(r.reason) || passing(r.reason) {
				still = append(still, r)
				continue
			}
			failed, err := q.attempt(ctx, tx, []feed.Entry{r.Entry}, true, step)
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

// attempt applies entries under a savepoint. It rolls back to the savepoint if Apply fails or takes too long, or if
// keep is false. It returns the reason as failed if the database still answers, and as err if not.
func (q *quarantine) attempt(ctx context.Context, tx pgx.Tx, entries []feed.Entry, keep bool, step time.Duration) (failed, err error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	limited, end := limitAttempt(ctx, inner, step)
	failed = q.call(limited, inner, entries, nil)
	if out, ok := inner.(*publish.Tx); ok && failed == nil {
		failed = out.Check(limited)
	}
	if failed == nil { // constraints that are deferred to the commit fail here; later statements may defer them again
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
func (q *quarantine) applyBest(ctx context.Context, tx pgx.Tx, entries []feed.Entry, step time.Duration) (bad []rejection, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	failed, err := q.attempt(ctx, tx, entries, true, step)
	switch half := len(entries) / 2; {
	case err != nil || failed == nil:
		return nil, err
	case half == 0:
		return []rejection{{Entry: entries[0], reason: failed}}, nil
	default:
		first, err := q.applyBest(ctx, tx, entries[:half], step)
		if err != nil {
			return nil, err
		}
		second, err := q.applyBest(ctx, tx, entries[half:], step)
		return append(first, second...), err
	}
}

// nothingKept is stored in place of an item of which nothing may be kept.
const nothingKept = "[]"

var errNotKept = errors.New("nothing is kept of it: it does not say whose it is, or names an entity that is erased")

// storable returns what may be stored of a bad entry. Of one that does not say whose it is that is nothing, since an
// erasure would not find it.
func storable(e feed.Entry) []byte {
	if e.Nameless() {
		return []byte(nothingKept)
	}
	return e.Entity
}

// reject stores the bad entries.
func (q *quarantine) reject(ctx context.Context, tx pgx.Tx, bad []rejection) error {
	for _, r := range bad {
		_, err := tx.Exec(ctx, `
			insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason)
			values ($1, $2, $3, $4, $5, $6, $7, $8)
			on conflict (service, feed, entity_id) do update set version = excluded.version, position = excluded.position,
			       updated = excluded.updated, entity = excluded.entity, reason = excluded.reason,
			       rejected_at = now(), attempts = rejected_entry.attempts + 1`,
			q.service, q.Name, r.ID, r.Version, r.Position, r.Updated, storable(r.Entry),
			strings.ToValidUTF8(strings.ReplaceAll(whole(r.reason), "\x00", "�"), "�"))
		if err != nil {
			return err
		}
	}
	if len(bad) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, emptyRejected, q.service, q.Name, idsOf(bad))
	return err
}

func idsOf(bad []rejection) (ids []uuid.UUID) {
	for _, r := range bad {
		ids = append(ids, r.ID)
	}
	return ids
}

// uuidsIn are the UUIDs that the item of row w names, as found[1].
const uuidsIn = ` cross join lateral regexp_matches(replace(lower(encode(w.entity, 'escape')), '\\u002d', '-'), '[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}', 'g') as found `

// emptyRejected empties rejected entries that name an erased entity, under whatever id of their own: those of the
// entities $3, or all if that is null. They stay in the list: something is not applied.
const emptyRejected = `
	with named as materialized (
	     select w.entity_id, found[1]::uuid as id from rejected_entry w` + uuidsIn + `
	      where w.service = $1 and w.feed = $2 and ($3::uuid[] is null or w.entity_id = any($3)))
	update rejected_entry r set entity = '[]', reason = 'it names an entity that is erased, so that nothing more of it is kept'
	  from (select distinct entity_id from named join erased_entity e on e.service = $1 and e.feed = $2 and e.id = named.id) as naming
	 where r.service = $1 and r.feed = $2 and r.entity_id = naming.entity_id`

// clear deletes entities from the list of rejected entries: what was applied is good.
func (q *quarantine) clear(ctx context.Context, tx pgx.Tx, ids ...uuid.UUID) error {
	_, err := tx.Exec(ctx, `delete from rejected_entry where service = $1 and feed = $2 and entity_id = any($3)`,
		q.service, q.Name, ids)
	return err
}

func (q *quarantine) logRejected(ctx context.Context, bad []rejection) {
	for _, r := range bad {
		q.logger.WarnContext(ctx, "entry rejected", "feed", q.Name, "position", r.Position, "entity", r.ID.String(), "version", r.Version, "error", unquoted(r.reason))
	}
}

// see stores the last entry that has passed, as the witness.
func (q *quarantine) see(entries []feed.Entry, bad []rejection) {
	for _, e := range slices.Backward(entries) {
		if !e.Deleted && !slices.ContainsFunc(bad, func(r rejection) bool { return r.ID == e.ID }) {
			q.witness.Store(&e)
			return
		}
	}
}
