package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// If a page cannot be applied, either an entry or the service is at fault. An entry is at fault if it fails alone while
// another entry passes and the database answers. It is rejected, and the rest is applied. If no entry passes, an entry
// that the copy has taken before is tried again as the witness: if that fails, too, the service is at fault, nothing is
// rejected, and the poll fails. No rule can tell in every case. So a rejected entry is tried again by itself
// (retries.go), and what was rejected by the service's fault arrives when that is mended.

// A quarantine rejects entries that cannot be applied, and decides whether they or the service are at fault.
type quarantine struct {
	*target
	passed  atomic.Bool                // the feed's Check has passed an entry
	looked  feed.Cursor                // how far seeCheck has searched
	witness atomic.Pointer[feed.Entry] // the last entry that was applied; nil means none since the start
	kept    atomic.Pointer[feed.Entry] // the same, kept over resyncs
	sought  atomic.Bool                // seekWitness has searched
	odds    atomic.Bool                // Apply has refused an entry of a snapshot, as it does if what it refers to is on a later page

	mu      sync.Mutex
	doubts  map[doubtful]doubt // of pages that were not applied
	suspect map[doubtful]bool  // one of them may have ended the session with the database
	ending  map[doubtful]error // they have ended it again and again, alone
	retries retrying
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

// An incompleteError means that Complete has refused an entry.
type incompleteError struct {
	feed.Entry
	reason error
}

func (e *incompleteError) Error() string {
	return fmt.Sprintf("version %d of the entity %s, at position %d, %v", e.Version, e.ID, e.Position, e.reason)
}
func (e *incompleteError) Unwrap() error        { return e.reason }
func (e *incompleteError) Is(target error) bool { return target == ErrIncomplete }

// complete returns an error that is ErrIncomplete if Complete refuses one of the entries. What check refuses is left
// out, since it is rejected.
func (q *quarantine) complete(entries []feed.Entry) (err error) {
	if q.Complete == nil {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = errors.New((&panicError{"complete", v}).unquoted())
		}
	}()
	for _, e := range entries {
		if e.Deleted || q.isBad(e) {
			continue
		}
		if err := q.Complete(e); err != nil {
			return &incompleteError{e, err}
		}
	}
	return nil
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
		if q.check(slices.DeleteFunc(answer.Page.Entries, func(e feed.Entry) bool { return e.Superseded })); q.passed.Load() || answer.Page.UpToDate {
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
			q.setWitness(&e)
			return
		}
	}
}

// judge returns a *refusedError if the service may be at fault: if no entry passed, and Apply does not take the witness
// either. Without a witness, a single entry is at fault if its error is one of data. Where Apply got none, they are at
// fault if Check has passed another one, and so is a single one. Entries of entities that other sources have do not
// count.
func (q *quarantine) judge(ctx context.Context, tx pgx.Tx, entries int, bad []rejection) error {
	if q.owned {
		all := len(bad)
		bad = slices.DeleteFunc(slices.Clone(bad), func(r rejection) bool {
			_, owned := errors.AsType[*ownedError](r.reason)
			return owned
		})
		entries -= all - len(bad)
	}
	var checked int
	var refused error // by Apply
	for _, r := range bad {
		if r.checked {
			checked++
		} else {
			refused = r.reason
		}
	}
	applied := entries - checked
	switch {
	case len(bad) < entries, len(bad) == 0:
		return nil
	case applied == 0:
		if q.passed.Load() || entries == 1 {
			return nil
		}
	case q.witness.Load() == nil:
		if applied == 1 && badData(refused) {
			return nil
		}
	default:
		failed, err := q.attempt(ctx, tx, []feed.Entry{*q.witness.Load()}, false, q.step())
		if err != nil || failed == nil || publishedBefore(failed) && !publishedBefore(refused) {
			return err
		}
	}
	return &refusedError{entries: entries, checked: applied == 0, first: bad[0].reason}
}

// A refusedError means that every entry of a page was refused, and that no entry is at fault.
type refusedError struct {
	entries int
	checked bool // the check refused all of them
	first   error
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("every one of the %d entries was refused, the first: %s", e.entries, unquoted(e.first))
}

func (e *refusedError) Unwrap() error { return e.first }

// applyCarefully applies the entries in tx, each the newest of its entity, except the bad ones, which it returns for
// reject. Among them are those of entities that another source has. No statement may take longer than step. Entries that have exceeded that before are tried last, one by one, and
// before them, by halves, those of which one may have ended the session.
func (q *quarantine) applyCarefully(ctx context.Context, tx pgx.Tx, entries []feed.Entry, step time.Duration) (bad []rejection, err error) {
	own, owned, err := q.splitIn(ctx, tx, entries)
	if err != nil {
		return nil, err
	}
	good, bad := q.check(own)
	good, suspected, ending := q.suspected(good)
	restore, err := limitSteps(ctx, tx, step)
	if err != nil {
		return nil, err
	}
	doubted, others := q.doubted(good)
	parts, half := [][]feed.Entry{others}, (len(suspected)+1)/2
	if half > 0 {
		parts = slices.AppendSeq(parts, slices.Chunk(suspected, half))
	}
	parts = slices.AppendSeq(parts, slices.Chunk(doubted, 1))
	var refused []rejection
	for _, part := range parts {
		some, err := q.applyBest(ctx, tx, part, step)
		if err != nil {
			return nil, err
		}
		refused = append(refused, some...)
	}
	if len(refused) < len(good)+len(suspected) {
		if refused, err = q.again(ctx, tx, refused, step); err != nil {
			return nil, err
		}
	}
	return slices.Concat(bad, refused, ending, owned), restore()
}

// again tries entries once more that may have failed because of another entry, such as one that has given up their
// unique name since. It leaves out entries that failed by their own data, or for a reason that may pass later. It goes
// through them forwards and backwards, as either may be the order in which they depend on each other, as long as one
// more passes, up to ten times: the rest is rejected, and tried again later.
func (q *quarantine) again(ctx context.Context, tx pgx.Tx, refused []rejection, step time.Duration) (still []rejection, err error) {
	still = refused
	for more, times := true, 0; more && times < 10; times++ {
		refused, still, more = still, nil, false
		for _, r := range refused {
			_, owned := errors.AsType[*ownedError](r.reason)
			if badData(r.reason) && !ofOthers(r.reason) || passing(r.reason) || owned {
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
		slices.Reverse(still)
	}
	return still, nil
}

// attempt applies entries under a savepoint. It rolls back to the savepoint if Apply fails or takes too long, or if
// keep is false. It returns the reason as failed if the database still answers, and as err if not.
func (q *quarantine) attempt(ctx context.Context, tx pgx.Tx, entries []feed.Entry, keep bool, step time.Duration) (failed, err error) {
	// The rollback to a savepoint keeps the savepoint, with a lock, and later ones are nested in it. Releasing one
	// around it frees both.
	if _, err := tx.Exec(ctx, `savepoint attempt`); err != nil {
		return nil, err
	}
	inner, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	release := func() error {
		_, err := tx.Exec(ctx, `release savepoint attempt`)
		return err
	}
	limited, end := limitAttempt(ctx, inner, step)
	failed = q.call(limited, inner, entries, nil)
	if out, ok := inner.(*publish.Tx); ok && failed == nil {
		failed = out.Check(limited)
	}
	if failed == nil { // constraints that are deferred to the commit fail here; later statements may defer them again
		_, failed = inner.Exec(limited, `set constraints all immediate; set constraints all deferred`)
	}
	if ended := q.ended(limited, inner.Conn(), entries, failed); ended != nil {
		_ = end(failed)
		return nil, ended
	}
	failed = end(failed)
	if failed == nil && keep {
		return nil, cmp.Or(inner.Commit(ctx), release())
	}
	if err := cmp.Or(inner.Rollback(ctx), release()); err != nil {
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

func (q *quarantine) logRejected(ctx context.Context, bad []rejection) {
	if len(bad) > 0 {
		q.retrySoon()
	}
	for _, r := range bad {
		q.logger.WarnContext(ctx, "entry rejected", "feed", q.Name, "position", r.Position, "entity", r.ID.String(), "version", r.Version, "error", unquoted(r.reason))
	}
}

func (q *quarantine) setWitness(e *feed.Entry) {
	q.witness.Store(e)
	q.kept.Store(e)
}

// see stores the last entry that has passed, as the witness.
func (q *quarantine) see(entries []feed.Entry, bad []rejection) {
	for _, e := range slices.Backward(entries) {
		if !e.Deleted && !slices.ContainsFunc(bad, func(r rejection) bool { return r.ID == e.ID }) {
			q.setWitness(&e)
			return
		}
	}
}
