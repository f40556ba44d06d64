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

// forgetCuts is after how long a request waits as long as is set again, where such ones were cut off before.
const forgetCuts = 15 * time.Minute

// errCut is the end of a request that waited, by something on its way, such as a proxy that has heard nothing for too
// long. It says nothing of the source: the next poll, which is due at once and does not wait, does.
var errCut = errors.New("cut off while it waited")

// cuts are what is known of requests that wait and are cut off on their way.
type cuts struct {
	last time.Time     // zero: none was
	most time.Duration // for which a request is to wait since; 0: none does
}

// allowed returns for how long a request may wait that is to wait for so long.
func (c cuts) allowed(wait time.Duration, now time.Time) time.Duration {
	if c.last.IsZero() || now.Sub(c.last) >= forgetCuts {
		return wait
	}
	return min(wait, c.most)
}

// after returns what is known when one that was to wait for so long was cut off.
func (c cuts) after(wait, took time.Duration, now time.Time) cuts {
	most := took * 4 / 5
	if took < time.Second { // that may be a source that restarts
		most = wait / 2
	}
	return cuts{last: now, most: min(most, wait-time.Second).Truncate(time.Second)}
}

// broke returns the error of a poll whose waiting request failed: errCut if something on the way cut it off. The next
// request waits for less.
func (st *state) broke(f fetched, took time.Duration, now time.Time) error {
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
		return f.err // it was silent for longer than it was to wait
	}
	level("request cut off while it waited", "feed", st.Name, "after", took.Round(time.Millisecond), "next_waits", st.cuts.most, "error", f.err)
	return fmt.Errorf("%w: %w", errCut, f.err)
}

// wait is for how long a request may wait now. st.mu is locked.
func (st *state) wait(now time.Time) time.Duration { return st.cuts.allowed(st.tuned.wait, now) }

// heard notes whether the source waits. One that answers at once, and has nothing new, does not.
func (st *state) heard(f fetched, took time.Duration) {
	if f.Wait == 0 {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	nothing := f.Page == nil || len(f.Page.Entries) == 0
	st.hold = holdIgnored
	if f.Waits && (!nothing || took >= f.Wait/2) {
		st.hold = holdKept
	}
}

// mayWait returns for how long a request may wait at the source. The first one after a failure does not.
func (st *state) mayWait() time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.last.state != pollSucceeded {
		return 0
	}
	return st.wait(time.Now())
}
