package subscribe

import (
	"errors"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// due returns when the next poll is due; zero means now. streamAt is when the stream wants a poll, or zero. If the
// clock was set back, times that were planned before do not count.
func (st *state) due(now, streamAt time.Time) (next time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if soonest := st.tuned.schedule.Next(now); st.last.failures == 0 && st.nextPoll.After(soonest) {
		st.nextPoll = soonest
	}
	next = st.nextPoll
	if st.last.failures == 0 && !streamAt.IsZero() && streamAt.Before(next) {
		next = streamAt
	}
	switch {
	case st.copied.paused:
		return now.Add(time.Hour)
	case st.setBack(now), !next.After(now):
		return time.Time{}
	}
	return next
}

// after notes how a poll ended, and returns when the next one is due.
func (st *state) after(err error, now time.Time) time.Time {
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.tell()
	was := st.last.err
	st.last.err, st.pace = err, pace{}
	st.metrics.polled(err)
	if err == nil {
		if was != nil {
			st.logger.Info("polls succeed again", "feed", st.Name, "failures", st.last.failures)
		}
		st.last.failures, st.last.state = 0, pollSucceeded
		st.nextPoll = st.tuned.schedule.Next(now)
		switch forget := st.cuts.last.Add(forgetCuts); {
		case st.wait(now) > 0 && st.hold != holdIgnored:
			if soon := now.Add(st.shared); soon.Before(st.nextPoll) {
				st.nextPoll = soon
			}
		case st.wait(now) < st.tuned.wait && forget.Before(st.nextPoll):
			st.nextPoll = forget
		}
		return st.nextPoll
	}
	st.last.failures++
	st.failed(now)
	st.last.state, st.hold = pollFailed, holdUntried
	wait := st.tuned.schedule.backoff(st.last.failures, now)
	wait = wait/2 + rand.N(wait/2+1)
	if status := new(feedclient.StatusError); errors.As(err, &status) {
		wait += min(status.RetryAfter, maxRetryAfter) // so that not all readers come at the same moment
	}
	st.nextPoll = now.Add(wait)
	if was == nil || constant(was) != constant(err) {
		st.logger.Warn("poll failed", "feed", st.Name, "error", err, "next_poll_in", wait.Round(time.Millisecond))
	} else {
		st.logger.Debug("poll failed again", "feed", st.Name, "failures", st.last.failures, "next_poll_in", wait.Round(time.Millisecond))
	}
	return st.nextPoll
}

// afterCut makes a poll due at once that does not wait.
func (st *state) afterCut() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.metrics.polls.WithLabelValues("cut").Inc()
	st.last.state, st.nextPoll = pollUnproven, time.Time{}
	if st.hold == holdUntried {
		st.hold = holdKept
	}
}

// pollAtOnce makes a poll due at once that does not wait.
func (st *state) pollAtOnce() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.last.state, st.nextPoll = pollUnproven, time.Time{}
}

// ofRequest matches the parts of an error's text that differ from request to request: the local address, the number of
// the HTTP/2 stream, the number of entries.
var ofRequest = regexp.MustCompile(`\S+->|(?:stream ID |LastStreamID=|limit=)\d+`)

// constant returns the text of an error without those parts, so that an error that repeats is logged once.
func constant(err error) string { return ofRequest.ReplaceAllString(err.Error(), "") }
