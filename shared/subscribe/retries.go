package subscribe

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The service may have been at fault, so rejected entries are tried again by themselves, after a poll that succeeded:
// first at the start, and then after a pause, which doubles while none of them is applied. They are tried together,
// since they may need each other, but for those that cost the others time or the session: these are tried one by one, in
// turn, for a while.
const (
	firstRetry  = time.Minute
	lastRetry   = time.Hour
	retryAtOnce = 1000             // entries
	retryTime   = 10 * time.Second // for entries that are tried one by one
)

// retrying says when and how the rejected entries are tried again.
type retrying struct {
	at    time.Time // zero means after the next poll
	pause time.Duration

	// The others are of the one goroutine that polls.
	apart bool                    // together they have failed as a whole: one of them may be the reason
	alone map[uuid.UUID]time.Time // entries to be tried alone, and when that was so last
}

// begin makes the next try due after the next poll.
func (q *quarantine) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.retries = retrying{}
}

// retrySoon notes that an entry has been rejected.
func (q *quarantine) retrySoon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.retries.pause = firstRetry
	if soon := time.Now().Add(firstRetry); q.retries.at.IsZero() || q.retries.at.After(soon) {
		q.retries.at = soon
	}
}

// retryIsDue reports whether rejected entries are to be tried again after the next poll.
func (q *quarantine) retryIsDue() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !time.Now().Before(q.retries.at)
}

// retryDue tries the rejected entries again if that is due. If there are more of them to be tried at once, it is due
// again at the end.
func (q *quarantine) retryDue(ctx context.Context, goOn func() bool) error {
	q.mu.Lock()
	atStart := q.retries.at.IsZero()
	q.mu.Unlock()
	if !q.retryIsDue() || !goOn() {
		return nil
	}
	together, alone, err := q.toRetry(ctx, atStart)
	if err != nil {
		return err
	}
	ctx, stop := finishing(ctx)
	defer stop()
	applied := 0
	try := func(ids ...uuid.UUID) error {
		if len(ids) == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, q.timeout)
		defer cancel()
		n, _, err := q.reapply(ctx, ids, q.step())
		if err == nil {
			applied += n
		}
		return err
	}
	if !q.retries.apart {
		err = try(together...)
		q.retries.apart = err != nil
	} else {
		q.retries.apart = false
		began := time.Now()
		var failing []uuid.UUID
		tried := 0
		for _, id := range together {
			tried++
			if failed := try(id); failed != nil {
				failing = append(failing, id)
				err = errors.Join(err, failed)
			}
			if !goOn() || time.Since(began) > retryTime {
				q.retries.apart = true
				break
			}
		}
		if len(failing) < tried { // else the database may be the reason
			for _, id := range failing {
				q.retries.alone[id] = time.Now()
			}
		}
	}
	for began, left := time.Now(), alone; len(left) > 0 && goOn() && time.Since(began) < retryTime; left = left[1:] {
		q.retries.alone[left[0]] = time.Now()
		err = errors.Join(err, try(left[0]))
	}
	if applied > 0 {
		q.logger.InfoContext(ctx, "rejected entries were applied", "feed", q.Name, "applied", applied)
	}
	q.mu.Lock()
	if q.retries.pause = min(max(2*q.retries.pause, firstRetry), lastRetry); applied > 0 {
		q.retries.pause = firstRetry
	}
	q.retries.at = time.Now()
	if err != nil || applied <= retryAtOnce/2 { // else the service has been mended
		q.retries.at = q.retries.at.Add(q.retries.pause)
	}
	q.mu.Unlock()
	return err
}

// toRetry returns the rejected entries to be tried together, and those to be tried alone, which were too slow, waited too
// long for a lock, or made what they were tried with fail as a whole. Those that have ended the session with the
// database are tried at the start only, one at each, since they may stop the whole database. Malformed items are left
// out. First are those that a wrong clock rejected in the future, then those that were tried longest ago.
func (q *quarantine) toRetry(ctx context.Context, atStart bool) (together, alone []uuid.UUID, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := q.pool.Query(ctx, `
		select entity_id, reason from (
		       select distinct on (entity_id) * from rejected_entry
		        where service = $1 and feed = $2 and substr(entity, 1, 1) is distinct from '[' order by entity_id, checked) as one
		 order by rejected_at <= now(), rejected_at, position`, q.service, q.Name)
	if err != nil {
		return nil, nil, err
	}
	if q.retries.alone == nil {
		q.retries.alone = map[uuid.UUID]time.Time{}
	}
	var id uuid.UUID
	var reason string
	var ending []uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&id, &reason}, func() error {
		_, failed := q.retries.alone[id]
		switch ends := strings.HasPrefix(reason, sessionEnded); {
		case ends && atStart:
			ending = append(ending, id)
		case ends:
		case failed, strings.HasPrefix(reason, tookLonger), strings.Contains(reason, "(SQLSTATE "+lockNotAvailable+")"):
			alone = append(alone, id)
		case len(together) < retryAtOnce:
			together = append(together, id)
		}
		return nil
	})
	slices.SortStableFunc(alone, func(a, b uuid.UUID) int { return q.retries.alone[a].Compare(q.retries.alone[b]) })
	return together, append(alone, ending[:min(1, len(ending))]...), err
}
