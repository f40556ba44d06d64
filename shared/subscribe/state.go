package subscribe

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// A pollState is how the last poll ended.
type pollState int

const (
	pollUnproven pollState = iota // there was none, it was interrupted, or the clock was set back: the next request does not wait
	pollSucceeded
	pollFailed
)

// An outcome is the outcome of the last poll.
type outcome struct {
	state    pollState
	failures int // in a row
	err      error
}

// A hold says whether the source holds waiting requests.
type hold int

const (
	holdUntried hold = iota // no request has waited since the last failure, or since the settings were changed
	holdKept                // the last one was held, or cut off on its way
	holdIgnored             // the last one was answered at once with nothing new
)

// A state is the state of a subscription: how far the copy is, the settings by which it is polled, and how the last
// poll ended. Pages and polls read it at the same time.
type state struct {
	*target
	requests *requests
	metrics  *pollerMetrics
	given    tuning // by the environment or the defaults

	mu        sync.Mutex
	copied    progress // as stored in the database
	rejecting bool     // some entries may be rejected: some were at the last reading, or have been since
	tuned     tuning
	last      outcome
	nextPoll  time.Time // in the past while a poll runs
	hold      hold
	shared    time.Duration // for how long a cache may go on with the answer that a waiting request shared with others
	cuts      cuts
	pace      pace          // of the poll under way
	source    string        // as Detail.Source
	changed   chan struct{} // closed when awaitCaughtUp is to check again
}

func (st *state) tuning() tuning {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.tuned
}

// take takes over what was read from the database.
func (st *state) take(at progress) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if was := &st.copied; st.last.failures > 0 && at.lastSuccess.Equal(was.lastSuccess) { // the failure may not be stored yet
		at.failingSince, at.stale, at.headPosition = was.failingSince, at.stale || was.stale, was.headPosition
	}
	st.copied, st.rejecting = at, at.rejected > 0
	st.retune()
}

// awaitCaughtUp waits until the last poll has succeeded or, if another process polls, the copy is fresh.
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

// tell makes awaitCaughtUp check again. st.mu is locked.
func (st *state) tell() {
	close(st.changed)
	st.changed = make(chan struct{})
}

// adopt takes over what was changed in the database meanwhile: the settings and, in a process that does not poll, the
// progress of the one that does. before is the last success before at was read. If at has an older one, the database
// was set back, as by the restore of a dump, and a poll is due at once.
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
	if polls && st.setBack(time.Now()) { // the next request does not wait, and one that waits is interrupted
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

// retune applies the settings, and reports whether they have changed. st.mu is locked.
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

// effective returns the settings: those made at run time over those of the environment. st.mu is locked.
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

// assume stores whether this process polls. A process that loses the lease forgets what it knew of the source.
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

// retire notes why this process will not poll any more.
func (st *state) retire(why error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.last.err = why
	if st.copied.failingSince.IsZero() {
		st.copied.failingSince = time.Now()
	}
}

// committed takes over what a commit has stored. Settings that were changed meanwhile stay.
func (st *state) committed(t *turn, bad []rejection) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.rejecting = st.rejecting || len(bad) > 0
	now, to := &st.copied, t.to
	if t.endsPoll() {
		now.failingSince, now.stale = time.Time{}, false
		st.saySucceeded(to)
	}
	now.compacted = to.compacted
	now.place, now.etag, now.etagURL, now.asOf, now.lastSuccess = to.place, to.etag, to.etagURL, to.asOf, to.lastSuccess
}

// endsAt takes where the source's feed ends, as it has just said, whatever becomes of its page.
func (st *state) endsAt(head int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.copied.headPosition = head
}

// publishedAt takes the URL of the feed as its source publishes it.
func (st *state) publishedAt(url string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.source = url
}

// fails returns the number of failed polls since one succeeded.
func (st *state) fails() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.last.failures
}

// diverged reports whether the last poll failed because of another history.
func (st *state) diverged() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return errors.Is(st.last.err, feedclient.ErrDiverged)
}

// mayGoOn returns an error if no further page may be applied: after a stop, or in a poll on schedule after a pause.
func (st *state) mayGoOn(ctx context.Context, scheduled bool) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if scheduled && st.copied.paused {
		st.pace = pace{}
		return errInterrupted
	}
	return ctx.Err()
}

// hasRejected reports whether entries of the feed may be rejected.
func (st *state) hasRejected() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.rejecting
}
