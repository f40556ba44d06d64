package subscribe

import (
	"time"
)

// longestPoll is how long after its request an answer may arrive, if it waited at the source.
const longestPoll = maxWait + time.Minute

// believed returns the stored time t, but no later than now. It returns zero if t lies further in the future than the
// clocks of two replicas may differ: then the clock was set back after t was stored.
func believed(t, now time.Time) time.Time {
	switch {
	case t.After(now.Add(grace)):
		return time.Time{}
	case t.After(now):
		return now.UTC().Truncate(time.Millisecond)
	}
	return t
}

// since returns t, the time at which a state began that still holds, but no later than now.
func since(t, now time.Time) time.Time {
	if t.After(now) {
		return now.UTC().Truncate(time.Millisecond)
	}
	return t
}

// setBack reports whether the clock was set back since the last success: then a poll is due, since nobody knows how old
// the copy is. st.mu is locked.
func (st *state) setBack(now time.Time) bool {
	return st.last.failures == 0 && st.copied.lastSuccess.After(now.Add(grace))
}

// stale reports whether the copy is stale: the second poll that was due since the last success, or since the schedule
// was changed, is more than grace late. While requests wait at the source, or the first one may, the copy is fresh
// until its last success is older than the wait plus twice grace, and stale if polls have failed for longer than that.
// A copy that was found stale stays stale until a poll succeeds. An answer that a cache gave though it was old is no
// success. st.mu is locked.
func (st *state) stale(now time.Time) bool {
	last := believed(st.copied.lastSuccess, now)
	if asOf := st.copied.asOf; !asOf.IsZero() && last.After(asOf.Add(longestPoll)) {
		last = asOf.Add(longestPoll)
	}
	if last.IsZero() || st.copied.stale {
		return true
	}
	if st.tuned.wait > 0 {
		patience := st.tuned.wait + 2*grace
		failing := st.copied.failingSince
		held := st.hold == holdKept || st.hold == holdUntried && (st.last.state == pollSucceeded || !st.requests.polls())
		switch {
		case !failing.IsZero() && now.Sub(since(failing, now)) > patience: // a poll is due at any time
			return true
		case failing.IsZero() && held && now.Before(last.Add(patience)):
			return false
		}
	}
	if tuned := believed(st.copied.tunedAt, now); tuned.After(last) {
		last = tuned
	}
	return st.tuned.schedule.Stale(last, now)
}

// failed notes that a poll did not succeed. st.mu is locked.
func (st *state) failed(now time.Time) {
	at := &st.copied
	at.stale = st.stale(now)
	if believed(at.failingSince, now).IsZero() {
		at.failingSince = now.UTC().Truncate(time.Millisecond)
	}
}
