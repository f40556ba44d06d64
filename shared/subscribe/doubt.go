package subscribe

import (
	"fmt"
	"time"

	"github.com/google/uuid"

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

// trust forgets the doubts about entries that were applied or rejected.
func (q *quarantine) trust(entries []feed.Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range entries {
		delete(q.doubts, doubtful{e.ID, e.Version})
	}
}

// trustAll forgets all doubts.
func (q *quarantine) trustAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.doubts = nil
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
