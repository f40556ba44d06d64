package subscribehttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A page says what to do where the source refuses the token of a service.
func TestRefusedToken(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{401: "FEED_TOKEN", 403: "is not for this feed", 404: "404 Not Found"} {
		if got := subscribe.InWords(fmt.Errorf("poll: %w", &feedclient.StatusError{Status: status})); !strings.Contains(got, want) {
			t.Errorf("%d: %s", status, got)
		}
	}
}

// A request for a poll that may be repeated says so: another one took too long, or the service cannot pass on what the
// source said.
func TestPollsToRepeat(t *testing.T) {
	t.Parallel()
	over, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	for err, want := range map[error]string{
		subscribe.ErrBusy:        "Another poll of this feed is under way.",
		context.DeadlineExceeded: "The poll goes on",
		&subscribe.PollError{Err: fmt.Errorf("%w: the broker is down", subscribe.ErrEntries)}: "the broker is down",
	} {
		ctx := t.Context()
		if errors.Is(err, context.DeadlineExceeded) {
			ctx = over
		}
		problem, ok := errors.AsType[*web.Problem](problem(pollProblem(ctx, err)))
		if !ok || problem.Status != http.StatusServiceUnavailable || problem.Header.Get("Retry-After") == "" || !strings.Contains(problem.Detail, want) {
			t.Errorf("%v: %+v", err, problem)
		}
	}
}

func TestStalenessInWords(t *testing.T) {
	t.Parallel()
	for seconds, want := range map[float64]string{
		0.5: "0.5 s", 2.5: "2.5 s", 30: "30 s", 60: "1 min", 90: "1 min 30 s", 3600: "1 h", 5400: "1 h 30 min", 86400: "1 day", 224100: "2 days 14 h", 3601: "1 h",
	} {
		if got := span(seconds); got != want {
			t.Errorf("%v s: %q, not %q", seconds, got, want)
		}
	}
	for seconds, want := range map[float64]string{0.0101: "0.010 s", 0.387: "0.387 s", 25.01: "25.010 s", 90: "1 min 30 s"} {
		if got := (pollLine{subscribe.Poll{Seconds: seconds}}).Took(); got != want {
			t.Errorf("a poll of %v s took %q, not %q", seconds, got, want)
		}
	}
	for perDay, want := range map[float64]string{17280: "about 17,280 requests a day", 0.142857: "about one request in 7 days", 1: "about one request in 1 day"} {
		if got := (Status{subscribe.Status{Polling: subscribe.Polling{Cost: subscribe.Cost{RequestsPerDay: perDay}}}}).Requests(); got != want {
			t.Errorf("%v: %q, not %q", perDay, got, want)
		}
	}
	if got := (Status{subscribe.Status{CatchingUp: &subscribe.Pace{Copied: 1200, PerSecond: 400, Left: 75}}}).Copying(); got != "1,200 entries copied, 400 a second, about 1 min 15 s left" {
		t.Error(got)
	}
}

// Odd schedules are warned of, usual ones are not.
func TestWarnings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		schedule, wait string
		held, paused   bool
		cost           subscribe.Cost
		want           []string
	}{
		{"@every 30s", "0s", true, false, subscribe.Cost{RequestsPerDay: 2880, Expected: 15, Worst: 30}, nil},
		{"*/15 * * * *", "0s", true, false, subscribe.Cost{RequestsPerDay: 96, Expected: 450, Worst: 900}, nil},
		{"0 6 * * *", "0s", true, false, subscribe.Cost{RequestsPerDay: 1, Expected: 43200, Worst: 86400}, nil},
		{"0 6 * * *", "25s", true, false, subscribe.Cost{RequestsPerDay: 1, Expected: 43200, Worst: 86400}, nil},
		{"0 6 * * *", "25s", false, true, subscribe.Cost{RequestsPerDay: 1, Expected: 43200, Worst: 86400}, []string{"is paused", "answers waiting requests at once"}},
		{"0 6 1 * *", "0s", true, false, subscribe.Cost{RequestsPerDay: 12 / 365.25, Expected: 1e6, Worst: 31 * 86400}, []string{"up to 31 days old"}},
		{"@every 1s", "0s", true, false, subscribe.Cost{RequestsPerDay: 86400, Expected: .5, Worst: 1}, []string{"86,400 a day while nothing is new. With a wait"}},
		{"* * * * * *", "0s", true, false, subscribe.Cost{RequestsPerDay: 86400, Expected: .5, Worst: 1}, []string{"86,400 a day", "six fields"}},
		{"*/7 */5 * * *", "0s", true, false, subscribe.Cost{RequestsPerDay: 45, Expected: 1, Worst: 2}, []string{"*/7 starts again, so that the last step of an hour", "*/5 starts again, so that the last step of a day"}},
		{"* 8 * * *", "0s", true, false, subscribe.Cost{RequestsPerDay: 60, Expected: 39733.75, Worst: 82860}, []string{"uneven", "hours 8"}},
		{"0 0 13 * FRI", "0s", true, false, subscribe.Cost{RequestsPerDay: .17, Expected: 1, Worst: 604800}, []string{"up to 7 days old", "match either"}},
	} {
		to := subscribe.Plan{Schedule: c.schedule, Wait: c.wait, Cost: c.cost, WithoutWait: c.cost}
		if c.wait != "0s" && c.held {
			to.Cost = subscribe.Cost{RequestsPerDay: 3456, Expected: .001, Worst: 1}
		}
		got := Preview{Preview: subscribe.Preview{Proposed: to, Held: c.held, Paused: c.paused}}.warnings()
		if len(got) != len(c.want) {
			t.Errorf("%s, wait %s: %q", c.schedule, c.wait, got)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(got[i], want) {
				t.Errorf("%s, wait %s: %q is not of %q", c.schedule, c.wait, got[i], want)
			}
		}
	}
}

// Trouble comes first in the list of feeds.
func TestRank(t *testing.T) {
	t.Parallel()
	at := time.Now()
	in := func(state string, failing *time.Time, rejected int) Status {
		return Status{subscribe.Status{Copy: subscribe.Copy{State: state, FailingSince: failing}, RejectedEntries: rejected}}
	}
	last := -1
	for i, s := range []Status{
		in(subscribe.Diverged, &at, 0), in(subscribe.Stale, nil, 0), in(subscribe.Fresh, &at, 0), in(subscribe.Fresh, nil, 1), in(subscribe.Paused, &at, 0), in(subscribe.Fresh, nil, 0),
	} {
		if s.rank() <= last {
			t.Errorf("%d has rank %d after %d", i, s.rank(), last)
		}
		last = s.rank()
	}
}
