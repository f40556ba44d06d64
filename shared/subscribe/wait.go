package subscribe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// forgetCuts is how long after the last cut requests wait for the configured time again.
const forgetCuts = 15 * time.Minute

// errCut means that something between the reader and the source cut a waiting request off, such as a proxy that has
// heard nothing for too long. It says nothing about the source. The next poll is due at once and does not wait.
var errCut = errors.New("cut off while it waited")

// cuts are the waiting requests that were cut off on their way.
type cuts struct {
	last time.Time     // zero means none
	most time.Duration // the time for which a request may wait since then; 0 means that none waits
}

// allowed returns the time for which a request may wait, where wait is set.
func (c cuts) allowed(wait time.Duration, now time.Time) time.Duration {
	if c.last.IsZero() || now.Sub(c.last) >= forgetCuts {
		return wait
	}
	return min(wait, c.most)
}

// after returns the cuts after one more: of a request with the given wait that was cut off after the time took.
func (c cuts) after(wait, took time.Duration, now time.Time) cuts {
	most := took * 4 / 5
	if took < time.Second { // the source may be restarting
		most = wait / 2
	}
	return cuts{last: now, most: min(most, wait-time.Second).Truncate(time.Second)}
}

// waitFailed returns the error for a waiting request that failed. It wraps errCut if something on the way cut the
// request off. After a cut or a timeout, the next requests wait for less.
func (st *state) waitFailed(f fetched, took time.Duration, now time.Time) error {
	status, answered := errors.AsType[*feedclient.StatusError](f.err)
	switch {
	case f.Wait == 0, errors.Is(f.err, feedclient.ErrDiverged), errors.Is(f.err, feed.ErrPage):
		return f.err
	case answered && (status.RetryAfter > 0 || status.Status < http.StatusInternalServerError && status.Status != http.StatusRequestTimeout):
		return f.err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	level := st.logger.Debug
	if st.cuts.last.IsZero() {
		level = st.logger.Info
	}
	st.cuts = st.cuts.after(f.Wait, took, now)
	if network, ok := errors.AsType[net.Error](f.err); ok && network.Timeout() || errors.Is(f.err, context.DeadlineExceeded) {
		return f.err // the source was silent for longer than it was to wait
	}
	level("request cut off while it waited", "feed", st.Name, "after", took.Round(time.Millisecond), "next_waits", st.cuts.most, "error", f.err)
	return fmt.Errorf("%w: %w", errCut, f.err)
}

// wait returns the time for which a request may wait now. st.mu is locked.
func (st *state) wait(now time.Time) time.Duration { return st.cuts.allowed(st.tuned.wait, now) }

// noteHold notes whether the source holds waiting requests. A source that answers at once with nothing new does not,
// unless a cache on the way gave the answer, which it has fetched for another request: then the next request is sent
// when the cache has it no longer.
func (st *state) noteHold(f fetched, took time.Duration) {
	if f.Wait == 0 {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	nothing := f.Page == nil || len(f.Page.Entries) == 0
	early := nothing && took < f.Waits/2
	st.hold, st.shared = holdIgnored, 0
	if f.Waits > 0 && (!early || f.Kept > 0) {
		st.hold = holdKept
	}
	if early {
		st.shared = f.Kept
	}
}

// mayWait returns the time for which a request may wait at the source. The first request after a failure does not wait.
func (st *state) mayWait() time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.last.state != pollSucceeded {
		return 0
	}
	return st.wait(time.Now())
}
