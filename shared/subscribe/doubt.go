package subscribe

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// maxDoubts is how often an entry has to fail alone for a reason that may pass, over at least the time that a page may
// take, to be at fault.
const maxDoubts = 3

// A doubtful names a version of an entity that failed, for a reason that may pass, while others passed.
type doubtful struct {
	id      uuid.UUID
	version int64
}

// A doubt is how often it failed, and since when.
type doubt struct {
	times int
	since time.Time
}

// doubted separates entries that have failed in this way from the others.
func (q *quarantine) doubted(entries []feed.Entry) (doubted, others []feed.Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.doubts) == 0 {
		return nil, entries
	}
	for _, e := range entries {
		if q.doubts[doubtful{e.ID, e.Version}].times > 0 {
			doubted = append(doubted, e)
		} else {
			others = append(others, e)
		}
	}
	return doubted, others
}

// settle returns a *doubtError if any of the entries that were refused may pass with the next poll.
func (q *quarantine) settle(bad []rejection) (err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range bad {
		if !passing(r.reason) {
			continue
		}
		of := doubtful{r.ID, r.Version}
		d, known := q.doubts[of]
		if !known {
			d.since = time.Now()
		}
		if q.doubts == nil {
			q.doubts = map[doubtful]doubt{}
		}
		d.times++
		q.doubts[of] = d
		if d.times < maxDoubts || time.Since(d.since) < q.timeout {
			err = &doubtError{r.Position, unquoted(r.reason)}
		}
	}
	return err
}

// ended returns a *sessionError if the session with the database has ended while the entries were applied, or nil. One
// of them may be the reason, which no later statement can tell. So the next attempt halves them. An entry that has
// ended it alone, again and again, is at fault if the witness does not.
func (q *quarantine) ended(ctx context.Context, conn *pgx.Conn, entries []feed.Entry, failed error) error {
	if failed != nil && ctx.Err() == nil && conn.IsClosed() {
		return q.note(ctx, entries, &sessionError{cause: failed})
	}
	return nil
}

// note notes that the session has ended while the entries were applied, and returns the error.
func (q *quarantine) note(ctx context.Context, entries []feed.Entry, failed *sessionError) error {
	failed.noted = true
	if len(entries) == 1 {
		e := entries[0]
		witness := q.kept.Load()
		if witness != nil && witness.ID != e.ID && q.settle([]rejection{{Entry: e, reason: failed}}) == nil && q.takes(ctx, *witness) {
			q.mu.Lock()
			defer q.mu.Unlock()
			if q.ending == nil {
				q.ending = map[doubtful]error{}
			}
			q.ending[doubtful{e.ID, e.Version}] = failed
		}
		return failed
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.suspect = map[doubtful]bool{}
	for _, e := range entries {
		q.suspect[doubtful{e.ID, e.Version}] = true
	}
	return failed
}

// takes reports whether Apply takes the entry in a session of its own. Nothing of it stays.
func (q *quarantine) takes(ctx context.Context, e feed.Entry) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.step())
	defer cancel()
	return q.inTx(ctx, func(*pgx.Batch) {}, func(tx pgx.Tx) error {
		failed, err := q.attempt(ctx, tx, []feed.Entry{e}, false, q.step())
		if publishedBefore(failed) {
			return nil
		}
		return cmp.Or(err, failed)
	}) == nil
}

// suspected separates entries of which one may end the session, and rejects those that do.
func (q *quarantine) suspected(entries []feed.Entry) (others, suspected []feed.Entry, ending []rejection) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.suspect)+len(q.ending) == 0 {
		return entries, nil, nil
	}
	for _, e := range entries {
		of := doubtful{e.ID, e.Version}
		if reason := q.ending[of]; reason != nil {
			ending = append(ending, rejection{Entry: e, reason: reason})
		} else if q.suspect[of] {
			suspected = append(suspected, e)
		} else {
			others = append(others, e)
		}
	}
	return others, suspected, ending
}

// suspects reports whether one of the entries may end the session.
func (q *quarantine) suspects(entries []feed.Entry) bool {
	_, suspected, ending := q.suspected(entries)
	return len(suspected)+len(ending) > 0
}

// trust forgets the doubts about entries that were applied or rejected.
func (q *quarantine) trust(entries []feed.Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range entries {
		of := doubtful{e.ID, e.Version}
		delete(q.doubts, of)
		delete(q.suspect, of)
		delete(q.ending, of)
	}
}

// trustAll forgets all doubts.
func (q *quarantine) trustAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.doubts, q.suspect, q.ending = nil, nil, nil
}

// step returns how long a statement may take in a page that is applied in parts.
func (q *quarantine) step() time.Duration { return q.timeout / 6 }

// A doubtError means that an entry may be at fault that has failed for a reason that may pass. It wraps no error, since
// a transaction that failed for one of those reasons would be repeated as a whole.
type doubtError struct {
	position int64
	reason   string
}

func (e *doubtError) Error() string {
	return fmt.Sprintf("the entry at position %d is tried again: %s", e.position, e.reason)
}
