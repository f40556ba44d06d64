package subscribe

import (
	"context"
	"sync"
	"time"
)

// A pollState is how the last poll ended.
type pollState int

const (
	pollUnproven pollState = iota // there was none, it was cut off, or the clock was set back: the next request does not wait
	pollSucceeded
	pollFailed
)

// An outcome is that of the last poll.
type outcome struct {
	state    pollState
	failures int // in a row
	err      error
}

// A hold is whether the source holds requests that wait.
type hold int

const (
	holdUntried hold = iota // no request has waited since the last failure, or since the settings were changed
	holdKept                // the last one was held, or cut off on its way
	holdIgnored             // the last one was answered at once with nothing new
)

// A state is how a subscription is now: how far the copy is, by which settings it is polled, and how the last poll
// ended. What shows the copy and what polls read it at the same time.
type state struct {
	*target
	requests *requests
	metrics  *pollerMetrics
	given    tuning // by the environment, or the defaults

	mu        sync.Mutex
	copied    progress // as the database has it
	rejecting bool     // entries may be rejected: some were when it was read, or since
	tuned     tuning
	last      outcome
	nextPoll  time.Time // past while one runs
	hold      hold
	cuts      cuts
	pace      pace          // of the poll under way
	changed   chan struct{} // closed when awaitCaughtUp is to look again
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
	if was := &st.copied; st.last.failures > 0 && at.lastSuccess.Equal(was.lastSuccess) { // it may not be stored
		at.failingSince, at.stale = was.failingSince, at.stale || was.stale
	}
	st.copied, st.rejecting = at, at.rejected > 0
	st.retune()
}

// awaitCaughtUp waits until the last poll has succeeded or, where another process polls, the copy is fresh.
func (st *state) awaitCaughtUp(ctx context.Context) error {
	for {
		st.mu.Lock()
		changed := st.changed
		var done bool
		switch {
		case st.copied.paused, st.copied.resync.underWay, st.requests.undecided():
		case st.requests.polls():
			done = st.last.state == pollSucceeded
		default:
			done = !st.stale(time.Now())
		}
		st.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tell has awaitCaughtUp look again. st.mu is locked.
func (st *state) tell() {
	close(st.changed)
	st.changed = make(chan struct{})
}

// adopt takes over what was set meanwhile, and in a process that does not poll how far the one is that does. before is
// the last success before at was read. If at has an older one, the database was taken back, as by the restore of a
// dump: a poll is due at once.
func (st *state) adopt(at progress, before time.Time) {
	st.mu.Lock()
	polls := st.requests.polls()
	back := polls && at.lastSuccess.Before(before)
	changed := back || at.paused != st.copied.paused || at.resync.underWay && !st.copied.resync.underWay
	if !polls || back {
		st.copied = at
	} else {
		st.copied.set(at)
	}
	changed = st.retune() || changed
	if polls && st.setBack(time.Now()) { // the next request is not to wait, nor is one that does
		st.last.state, changed = pollUnproven, true
	}
	if back {
		st.last.state, st.rejecting = pollUnproven, at.rejected > 0
	}
	if back || at.resync.underWay && changed && polls {
		st.nextPoll = time.Time{}
	}
	st.tell()
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
	case st.last.err != nil || st.nextPoll.IsZero():
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

// assume notes which process polls. What was known of the source ends with the lease.
func (st *state) assume(r role) {
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.tell()
	st.requests.assume(r)
	if r != rolePolling {
		st.last.err, st.last.failures, st.nextPoll, st.pace = nil, 0, time.Time{}, pace{}
		st.last.state, st.hold, st.cuts = pollUnproven, holdUntried, cuts{}
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
		st.saySucceeded(to)
	}
	now.cursor, now.etag, now.etagURL, now.headPosition, now.asOf, now.lastSuccess = to.cursor, to.etag, to.etagURL, to.headPosition, to.asOf, to.lastSuccess
}

// fails returns how many polls have failed since one succeeded.
func (st *state) fails() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.last.failures
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
