package subscribe

import (
	"errors"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// due returns when the next poll is due; zero is now. streamAt is when the stream wants the feed to be asked; zero: it
// does not. Where the clock was set back, what was planned by it as it was before does not count.
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

// after notes how a poll ended, and when the next is due.
func (st *state) after(err error, now time.Time) time.Time {
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.tell()
	was := st.last.err
	st.last.err, st.pace = err, pace{}
	st.metrics.polled(err)
	if err == nil {
		if was != nil {
			st.logger.Info("source answers again", "feed", st.Name, "failures", st.last.failures)
		}
		st.last.failures, st.last.state = 0, pollSucceeded
		st.nextPoll = st.tuned.schedule.Next(now)
		switch forget := st.cuts.last.Add(forgetCuts); {
		case st.wait(now) > 0 && st.hold != holdIgnored:
			st.nextPoll = now
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
		wait += min(status.RetryAfter, maxRetryAfter) // and not all readers at the same instant
	}
	st.nextPoll = now.Add(wait)
	if was == nil || constant(was) != constant(err) {
		st.logger.Warn("poll failed", "feed", st.Name, "error", err, "next_poll_in", wait.Round(time.Millisecond))
	} else {
		st.logger.Debug("poll failed again", "feed", st.Name, "failures", st.last.failures, "next_poll_in", wait.Round(time.Millisecond))
	}
	return st.nextPoll
}

// afterCut has a poll follow at once that does not wait.
func (st *state) afterCut() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.metrics.polls.WithLabelValues("cut").Inc()
	st.last.state, st.nextPoll = pollUnproven, time.Time{}
	if st.hold == holdUntried {
		st.hold = holdKept
	}
}

// ofRequest matches what the text of an error says of one request alone: the address of this side of the connection,
// the number of the stream, how many entries it asked for.
var ofRequest = regexp.MustCompile(`\S+->|(?:stream ID |LastStreamID=|limit=)\d+`)

// constant returns the text of an error without that, so that an error that comes again is logged once.
func constant(err error) string { return ofRequest.ReplaceAllString(err.Error(), "") }
