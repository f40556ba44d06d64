package subscribe

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// States of a copy.
const (
	Fresh     = "fresh"
	Stale     = "stale"     // two polls that were due have not succeeded: see Schedule.Stale
	Resyncing = "resyncing" // the feed is read again from its start, while the copy serves as it is
	Diverged  = "diverged"  // the source has another history than the copy, and the resync failed
	Paused    = "paused"
)

// A Subscription is how one feed's copy is, as /subscriptions shows it.
type Subscription struct {
	Feed string `json:"feed"`
	URL  string `json:"url"`
	Polling
	Copy
	RejectedEntries int `json:"rejected_entries"` // that could not be applied
	Resync
	Standby    bool    `json:"standby"`     // this process does not poll: another one of the service does, or the database does not answer
	CatchingUp *Pace   `json:"catching_up"` // while a poll copies; else null
	Stream     *Stream `json:"stream"`      // null: it listens to none
	shown
}

// Polling is when and how a feed is polled.
type Polling struct {
	Schedule       string      `json:"schedule"`
	ScheduleSource string      `json:"schedule_source"` // "default", "environment" or "runtime"
	Wait           string      `json:"wait"`            // how long a request waits at the source for something new; "0s": none does
	PageSize       int         `json:"page_size"`
	Cost           Cost        `json:"cost"`
	NextPolls      []time.Time `json:"next_polls"` // five; the first is sooner than the schedule's while the source fails
}

// A Copy is how far a copy is, and how fresh.
type Copy struct {
	Cursor        feed.Cursor `json:"cursor"`
	LagEntries    int64       `json:"lag_entries"` // how many entries the source had beyond the copy when it last answered, as far as it said
	State         string      `json:"state"`
	AsOf          *time.Time  `json:"as_of"`           // the copy is what the source had then; null: there is none yet, or the clock was set back since
	LastSuccessAt *time.Time  `json:"last_success_at"` // null: never, or the clock was set back since
	FailingSince  *time.Time  `json:"failing_since"`   // the first poll that failed since one succeeded; null: none did
	LastError     *string     `json:"last_error"`      // of this process' last poll; null if it succeeded
}

// A Resync is how often, when and why a feed was read again from its start.
type Resync struct {
	Generation   int        `json:"generation"`    // 1 and how often it was
	ResyncedAt   *time.Time `json:"resynced_at"`   // when that last ended; null: never
	ResyncReason string     `json:"resync_reason"` // of the resync under way, or else of the last one
	ResyncSince  *time.Time `json:"resync_since"`  // when the resync under way began; null: none is
}

// shown is what only the pages say.
type shown struct {
	trouble string                          // last_error in a sentence for people
	cut     string                          // for how long a request waits since longer ones are cut off on their way; empty: none was
	undated bool                            // there is a copy, but the clock was set back since
	held    bool                            // a request waits at the source, or is about to
	set     struct{ wait, pageSize string } // at run time; empty: not
	notHeld bool                            // requests are to wait, but the source answers at once
	unknown bool                            // this process does not poll, and does not know whether another one does
}

// A Pace is how fast a poll copies.
type Pace struct {
	Copied    int     `json:"copied"`               // entries
	PerSecond float64 `json:"per_second,omitempty"` // of them
	Left      float64 `json:"seconds_left,omitempty"`
}

func (p *poller) status(now time.Time) Subscription {
	s := p.state.status(now)
	s.Stream = p.stream.status(s.Standby)
	return s
}

func (st *state) status(now time.Time) Subscription {
	st.mu.Lock()
	defer st.mu.Unlock()
	asOf := believed(st.copied.asOf, now)
	s := Subscription{
		Feed: st.Name, URL: st.shownURL, RejectedEntries: st.copied.rejected, Standby: !st.requests.polls(),
		Polling: Polling{
			Schedule: st.tuned.schedule.String(), ScheduleSource: st.tuned.source, Wait: st.tuned.wait.String(), PageSize: st.tuned.pageSize,
			NextPolls: st.tuned.schedule.NextN(now, 5),
		},
		Copy: Copy{
			Cursor: st.copied.cursor, LagEntries: max(st.copied.headPosition-st.copied.cursor.Position, 0), State: Fresh,
			AsOf: timeOrNull(asOf), LastSuccessAt: timeOrNull(believed(st.copied.lastSuccess, now)), FailingSince: timeOrNull(since(st.copied.failingSince, now)),
		},
		Resync: Resync{
			Generation: st.copied.generation, ResyncedAt: timeOrNull(since(st.copied.resyncedAt, now)), ResyncReason: st.copied.resyncReason,
		},
		shown: shown{
			undated: asOf.IsZero() && !st.copied.asOf.IsZero(),
			held:    st.wait(now) > 0 && st.hold == holdKept, notHeld: st.wait(now) > 0 && st.hold == holdIgnored, unknown: st.requests.undecided(),
		},
	}
	actual := st.tuned
	if actual.wait = st.wait(now); actual.wait < st.tuned.wait {
		s.cut = actual.wait.String()
	}
	s.Cost = actual.cost(st.hold != holdIgnored)
	if at := st.copied; at.wait != nil {
		s.set.wait = at.wait.String()
	}
	if at := st.copied; at.pageSize != nil {
		s.set.pageSize = strconv.Itoa(*at.pageSize)
	}
	if st.last.err != nil {
		text := st.last.err.Error()
		s.LastError, s.trouble = &text, inWords(st.last.err)
		if st.nextPoll.After(now) { // the back-off's
			next := now.Add(st.nextPoll.Sub(now)).UTC().Round(time.Millisecond) // by the clock as it is set now
			s.NextPolls = append([]time.Time{next}, st.tuned.schedule.NextN(next, 4)...)
		}
	}
	if st.copied.resync.underWay {
		s.ResyncSince, s.ResyncReason = timeOrNull(since(st.copied.resync.since, now)), st.copied.resync.reason
	}
	if so := st.pace; so.copied > 0 {
		s.CatchingUp = &Pace{Copied: so.copied, PerSecond: math.Round(so.perSecond(now))}
		if rate := so.perSecond(now); rate > 0 {
			s.CatchingUp.Left = math.Round(float64(so.left) / rate)
		}
	}
	switch {
	case st.copied.paused:
		s.State, s.NextPolls = Paused, []time.Time{}
	case errors.Is(st.last.err, feed.ErrDiverged):
		s.State = Diverged
	case st.copied.resync.underWay:
		s.State = Resyncing
	case st.stale(now):
		s.State = Stale
	}
	return s
}

// inWords says what a failed poll means to those who read the copy; the details stand in last_error.
func inWords(err error) string {
	var status *feed.StatusError
	var network net.Error
	var noAnswer *feed.NoAnswerError
	var redirect *feed.RedirectError
	var entries *entriesError
	var page *pageError
	switch {
	case errors.As(err, &entries):
		return "What the source said could not be passed on."
	case errors.As(err, &page):
		return "What the source said could not be applied."
	case errors.Is(err, feed.ErrDiverged):
		return "The source has another history than this copy."
	case errors.Is(err, feed.ErrPage):
		return "The source sent something that is not a page of this feed."
	case errors.As(err, &status) && status.Status == http.StatusUnauthorized:
		return "The source wants a token that it knows: FEED_TOKEN, or the password in the feed’s URL."
	case errors.As(err, &status) && status.Status == http.StatusForbidden:
		return "The token that the source was asked with is not for this feed."
	case errors.As(err, &status):
		return fmt.Sprintf("The source answered %d %s.", status.Status, http.StatusText(status.Status))
	case errors.As(err, &network) && network.Timeout():
		return "The source does not answer in time."
	case errors.As(err, &redirect):
		return "The source redirects to another place: its address may have changed."
	case errors.As(err, &noAnswer):
		return "The source cannot be reached."
	default:
		return "The last poll failed."
	}
}

// freshness is the same for the top of a page.
func (s *Subscription) freshness() web.Freshness {
	f := web.Freshness{
		Feed: s.Feed, State: s.State, Behind: s.LagEntries, URL: pathOf(s.Feed), Next: s.next(),
		Schedule: s.Schedule, Wait: s.Wait, SetWait: s.set.wait, SetPageSize: s.set.pageSize,
	}
	if s.AsOf != nil {
		f.AsOf = *s.AsOf
	}
	if f.Failing, f.Undated = s.Failing(), s.undated; f.Failing != "" && s.State == Fresh {
		f.Failing = "but " + f.Failing
	}
	var notes []string
	switch {
	case s.trouble != "" && len(s.NextPolls) > 0:
		notes = append(notes, s.trouble+" Next try at "+s.NextPolls[0].Format("15:04:05")+" UTC.")
	case s.LagEntries > 0 && s.State != Paused && s.State != Fresh:
		notes = append(notes, "Copying: the source is ahead.")
	}
	if s.RejectedEntries > 0 {
		notes = append(notes, "Without "+entries(s.RejectedEntries)+" that could not be applied.")
	}
	f.Note = strings.Join(notes, " ")
	return f
}
