package subscribe

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A pollState is how the last poll ended.
type pollState int

const (
	pollUnproven pollState = iota // there was none, it was cut off, or the clock was set back: the next request does not wait
	pollSucceeded
	pollFailed
)

// A hold is whether the source holds requests that wait.
type hold int

const (
	holdUntried hold = iota // no request has waited since the last failure, or since the settings were changed
	holdKept                // the last one was held, or cut off on its way
	holdIgnored             // the last one was answered at once with nothing new
)

// A state is how a subscription is now: how far the copy is, by which settings it is polled, and how the last poll ended. What
// shows the copy and what polls read it at the same time.
type state struct {
	*target
	requests *requests
	metrics  *pollerMetrics
	given    tuning // by the environment, or the defaults

	reading sync.Mutex // held from when the row is read until it is taken over: an older reading must not come later

	mu        sync.Mutex
	copied    progress // as the database has it
	rejecting bool     // entries may be rejected: some were when it was read, or since
	tuned     tuning
	last      pollState // of the last poll
	failures  int       // in a row
	lastError error
	nextPoll  time.Time // past while one runs
	hold      hold
	cuts      cuts
	pace      pace // of the poll under way
}

func (st *state) tuning() tuning {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.tuned
}

// take takes over what the database says.
func (st *state) take(at progress) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if was := &st.copied; st.failures > 0 && at.lastSuccess.Equal(was.lastSuccess) { // it may not be stored
		at.failingSince, at.stale = was.failingSince, at.stale || was.stale
	}
	st.copied, st.rejecting = at, at.rejected > 0
	st.retune()
}

// adopt takes over what was set meanwhile, and in a process that does not poll how far the one is that does.
func (st *state) adopt(at progress) {
	st.mu.Lock()
	polls := st.requests.polls()
	changed := at.paused != st.copied.paused || at.resync.underWay && !st.copied.resync.underWay
	if !polls {
		st.copied = at
	} else {
		st.copied.set(at)
	}
	changed = st.retune() || changed
	if polls && st.setBack(time.Now()) { // the next request is not to wait, nor is one that does
		st.last, changed = pollUnproven, true
	}
	if at.resync.underWay && changed && polls {
		st.nextPoll = time.Time{}
	}
	st.mu.Unlock()
	if changed {
		st.requests.rouse()
	}
}

// retune wants st.mu locked. It tells whether anything is other than before.
func (st *state) retune() bool {
	was, now := st.tuned, st.effective(st.copied)
	st.tuned = now
	if was.sameTimes(now) && was.pageSize == now.pageSize {
		return false
	}
	st.hold, st.cuts = holdUntried, cuts{}
	switch {
	case st.lastError != nil || st.nextPoll.IsZero():
	case now.wait > 0:
		st.nextPoll = time.Time{}
	default:
		st.nextPoll = now.schedule.Next(time.Now())
	}
	return true
}

// effective returns the tuning that at makes of what the environment says. st.mu is locked.
func (st *state) effective(at progress) tuning {
	now := st.given
	if at.schedule != nil {
		schedule, err := st.tuned.schedule, error(nil)
		if schedule.text != *at.schedule {
			schedule, err = ParseSchedule(*at.schedule, st.key())
		}
		if err == nil {
			now.schedule, now.source = schedule, "runtime"
		}
	}
	if at.wait != nil {
		now.wait = *at.wait
	}
	if at.pageSize != nil {
		now.pageSize = *at.pageSize
	}
	return now
}

func (st *state) current() progress {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.copied
}

// load reads the progress from the database, which alone knows it: of a commit whose connection was lost, too.
func (st *state) load(ctx context.Context) (progress, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	st.reading.Lock()
	defer st.reading.Unlock()
	rows, err := st.pool.Query(ctx, selectProgress+` and feed = $2`, st.service, st.Name)
	if err != nil {
		return progress{}, fmt.Errorf("read how far the copy of %s is: %w", st.Name, err)
	}
	at, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (progress, error) {
		_, at, err := scanProgress(row)
		return at, err
	})
	if err != nil {
		return at, fmt.Errorf("read how far the copy of %s is: %w", st.Name, err)
	}
	st.take(at)
	return at, nil
}

// refresh takes over at once what was changed in the database.
func (st *state) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	st.reading.Lock()
	defer st.reading.Unlock()
	rows, err := st.pool.Query(ctx, selectProgress+` and feed = $2`, st.service, st.Name)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		_, at, err := scanProgress(rows)
		if err != nil {
			return err
		}
		st.adopt(at)
	}
	return rows.Err()
}

// set changes a setting in the database, and takes it over at once; the process that polls, if it is another, does within a second.
// Settings have rows of their own, which no transaction holds that applies entries.
func (st *state) set(ctx context.Context, assignments string, args ...any) error {
	_, err := st.pool.Exec(ctx, `update subscription_setting set `+assignments+` where service = $1 and feed = $2`,
		append([]any{st.service, st.Name}, args...)...)
	if err != nil {
		return fmt.Errorf("change the subscription to %s: %w", st.Name, err)
	}
	return st.refresh(ctx)
}

// assume notes which process polls. What was known of the source ends with the lease.
func (st *state) assume(r role) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.requests.assume(r)
	if r == roleStandby {
		st.lastError, st.failures, st.nextPoll, st.pace = nil, 0, time.Time{}, pace{}
		st.last, st.hold, st.cuts = pollUnproven, holdUntried, cuts{}
	}
}

// committed takes over what a commit has stored. What was set meanwhile stays; the next look counts what was rejected.
func (st *state) committed(from, to progress, bad []rejection) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.rejecting = st.rejecting || len(bad) > 0
	now := &st.copied
	if succeeded(from, to) {
		now.failingSince, now.stale = time.Time{}, false
	}
	now.cursor, now.etag, now.etagURL, now.headPosition, now.asOf, now.lastSuccess = to.cursor, to.etag, to.etagURL, to.headPosition, to.asOf, to.lastSuccess
}

// fails returns how many polls have failed since one succeeded.
func (st *state) fails() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.failures
}

// begin gives how far the copy is. Between two requests that wait nothing is read: what others change is heard of by the lease's
// looks, and by the cursor when it does not move.
func (st *state) begin(ctx context.Context, scheduled bool) (progress, error) {
	st.mu.Lock()
	at, known := st.copied, scheduled && st.last == pollSucceeded && st.hold == holdKept
	st.mu.Unlock()
	if known {
		return at, nil
	}
	return st.load(ctx)
}

// mayGoOn tells whether the next page may be applied: not at the stop, and not when a poll on schedule is paused.
func (st *state) mayGoOn(ctx context.Context, scheduled bool) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if scheduled && st.copied.paused {
		st.pace = pace{}
		return errInterrupted
	}
	return ctx.Err()
}

// hasRejected: there may be rejected entries of the feed.
func (st *state) hasRejected() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.rejecting
}
