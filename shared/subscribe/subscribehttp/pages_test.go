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
	for perDay, want := range map[float64]string{17280: "about 17,280 requests a day", 0.142857: "about one request in 7 days", 1: "about one request in 1 day"} {
		if got := (Status{subscribe.Status{Polling: subscribe.Polling{Cost: subscribe.Cost{RequestsPerDay: perDay}}}}).Requests(); got != want {
			t.Errorf("%v: %q, not %q", perDay, got, want)
		}
	}
	if got := (Status{subscribe.Status{CatchingUp: &subscribe.Pace{Copied: 1200, PerSecond: 400, Left: 75}}}).Copying(); got != "1,200 entries copied, 400 a second, about 1 min 15 s left" {
		t.Error(got)
	}
}
