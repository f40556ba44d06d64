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

// A Subscription is how one feed's copy is, as /subscriptions shows it.
type Subscription struct {
	Feed           string      `json:"feed"`
	URL            string      `json:"url"`
	Schedule       string      `json:"schedule"`
	ScheduleSource string      `json:"schedule_source"` // "default", "environment" or "runtime"
	Wait           string      `json:"wait"`            // how long a request waits at the source for something new; "0s": none does
	PageSize       int         `json:"page_size"`
	Cost           Cost        `json:"cost"`
	NextPolls      []time.Time `json:"next_polls"` // five; the first is sooner than the schedule's while the source fails
	Cursor         feed.Cursor `json:"cursor"`
	LagEntries     int64       `json:"lag_entries"` // how many entries the source had beyond the copy when it last answered, as far as it said
	State          string      `json:"state"`
	AsOf           *time.Time  `json:"as_of"`           // the copy is what the source had then; null: there is none yet, or the clock was set back since
	LastSuccessAt  *time.Time  `json:"last_success_at"` // null: never, or the clock was set back since
	FailingSince   *time.Time  `json:"failing_since"`   // the first poll that failed since one succeeded; null: none did
	LastError      *string     `json:"last_error"`      // of this process' last poll; null if it succeeded

	RejectedEntries int        `json:"rejected_entries"` // that could not be applied
	Generation      int        `json:"generation"`       // 1 and how often the feed was read anew
	ResyncedAt      *time.Time `json:"resynced_at"`      // when that last ended; null: never
	ResyncReason    string     `json:"resync_reason"`    // of the walk under way, or else of the last one
	ResyncSince     *time.Time `json:"resync_since"`     // when the walk under way began; null: none is
	Standby         bool       `json:"standby"`          // another process of this service polls
	CatchingUp      *Pace      `json:"catching_up"`      // while a poll copies; else null
	Stream          *Stream    `json:"stream"`           // null: it listens to none

	trouble string                          // last_error in a sentence for people
	cut     string                          // for how long a request waits since longer ones are cut off on their way; empty: none was
	undated bool                            // there is a copy, but the clock was set back since
	held    bool                            // a request waits at the source, or is about to
	set     struct{ wait, pageSize string } // at run time; empty: not
	notHeld bool                            // requests are to wait, but the source answers at once
}

// A Pace is how fast a poll copies.
type Pace struct {
	Copied    int     `json:"copied"`               // entries
	PerSecond float64 `json:"per_second,omitempty"` // of them
	Left      float64 `json:"seconds_left,omitempty"`
}

func (p *poller) status(now time.Time) Subscription {
	p.mu.Lock()
	defer p.mu.Unlock()
	asOf := believed(p.copied.asOf, now)
	s := Subscription{
		Feed: p.Name, URL: p.shownURL, Schedule: p.tuned.schedule.String(), ScheduleSource: p.tuned.source,
		Wait: p.tuned.wait.String(), PageSize: p.tuned.pageSize,
		NextPolls: p.tuned.schedule.NextN(now, 5), Cursor: p.copied.cursor, State: Fresh,
		LagEntries: max(p.copied.headPosition-p.copied.cursor.Position, 0), RejectedEntries: p.copied.rejected,
		Generation: p.copied.generation, ResyncedAt: timeOrNull(since(p.copied.resyncedAt, now)), ResyncReason: p.copied.resyncReason, Standby: p.role != rolePolling,
		AsOf: timeOrNull(asOf), LastSuccessAt: timeOrNull(believed(p.copied.lastSuccess, now)), FailingSince: timeOrNull(since(p.copied.failingSince, now)),
		undated: asOf.IsZero() && !p.copied.asOf.IsZero(),
		held:    p.wait(now) > 0 && p.hold == holdKept, notHeld: p.wait(now) > 0 && p.hold == holdIgnored,
	}
	actual := p.tuned
	if actual.wait = p.wait(now); actual.wait < p.tuned.wait {
		s.cut = actual.wait.String()
	}
	s.Cost = actual.cost(p.hold != holdIgnored)
	s.Stream = p.stream.status(p.role != rolePolling)
	if at := p.copied; at.wait != nil {
		s.set.wait = at.wait.String()
	}
	if at := p.copied; at.pageSize != nil {
		s.set.pageSize = strconv.Itoa(*at.pageSize)
	}
	if p.lastError != nil {
		text := p.lastError.Error()
		s.LastError, s.trouble = &text, inWords(p.lastError)
		if p.nextPoll.After(now) { // the back-off's
			next := now.Add(p.nextPoll.Sub(now)).UTC().Round(time.Millisecond) // by the clock as it is set now
			s.NextPolls = append([]time.Time{next}, p.tuned.schedule.NextN(next, 4)...)
		}
	}
	if p.copied.resync.underWay {
		s.ResyncSince, s.ResyncReason = timeOrNull(since(p.copied.resync.since, now)), p.copied.resync.reason
	}
	if so := p.pace; so.copied > 0 {
		s.CatchingUp = &Pace{Copied: so.copied, PerSecond: math.Round(so.perSecond(now))}
		if rate := so.perSecond(now); rate > 0 {
			s.CatchingUp.Left = math.Round(float64(so.left) / rate)
		}
	}
	switch {
	case p.copied.paused:
		s.State, s.NextPolls = Paused, []time.Time{}
	case errors.Is(p.lastError, feed.ErrDiverged):
		s.State = Diverged
	case p.copied.resync.underWay:
		s.State = Resyncing
	case p.stale(now):
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
