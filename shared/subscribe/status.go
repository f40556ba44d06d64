package subscribe

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A Subscription is how one feed's copy is, as /subscriptions shows it.
type Subscription struct {
	Feed           string      `json:"feed"`
	URL            string      `json:"url"`
	Schedule       string      `json:"schedule"`
	ScheduleSource string      `json:"schedule_source"` // "default" or "environment"
	NextPolls      []time.Time `json:"next_polls"`      // five; the first is sooner than the schedule's while the source fails
	Cursor         feed.Cursor `json:"cursor"`
	LagEntries     int64       `json:"lag_entries"` // how many entries the source had beyond the copy when it last answered, as far as it said
	State          string      `json:"state"`
	AsOf           *time.Time  `json:"as_of"`           // the copy is what the source had then; null: there is none yet
	LastSuccessAt  *time.Time  `json:"last_success_at"` // null: never
	LastError      *string     `json:"last_error"`      // of the last poll; null if it succeeded

	trouble string // last_error in a sentence for people
}

func (p *poller) status(now time.Time) Subscription {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Subscription{
		Feed: p.Name, URL: p.shownURL, Schedule: p.schedule.String(), ScheduleSource: p.scheduleSource,
		NextPolls: p.schedule.NextN(now, 5), Cursor: p.copied.cursor, State: Fresh,
		LagEntries: max(p.copied.headPosition-p.copied.cursor.Position, 0),
		AsOf:       timeOrNull(p.copied.asOf), LastSuccessAt: timeOrNull(p.copied.lastSuccess),
	}
	if p.lastError != nil {
		text := p.lastError.Error()
		s.LastError, s.trouble = &text, inWords(p.lastError)
		if p.nextPoll.After(now) { // the back-off's
			s.NextPolls = append([]time.Time{p.nextPoll.UTC().Round(time.Millisecond)}, p.schedule.NextN(p.nextPoll, 4)...)
		}
	}
	switch {
	case errors.Is(p.lastError, feed.ErrDiverged):
		s.State = Diverged
	case s.LastSuccessAt == nil, p.schedule.Stale(p.copied.lastSuccess, now):
		s.State = Stale
	}
	return s
}

// inWords says what a failed poll means to those who read the copy; the details stand in last_error.
func inWords(err error) string {
	var status *feed.StatusError
	var network net.Error
	switch {
	case errors.Is(err, feed.ErrDiverged):
		return "The source has another history than this copy."
	case errors.Is(err, feed.ErrPage):
		return "The source sent something that is not a page of this feed."
	case errors.As(err, &status):
		return fmt.Sprintf("The source answered %d %s.", status.Status, http.StatusText(status.Status))
	case errors.As(err, &network) && network.Timeout():
		return "The source does not answer in time."
	case errors.As(err, &network):
		return "The source cannot be reached."
	default:
		return "The last poll failed."
	}
}

// freshness is the same for the banner of a page.
func (s *Subscription) freshness() web.Freshness {
	f := web.Freshness{Feed: s.Feed, State: s.State}
	if s.AsOf != nil {
		f.AsOf = *s.AsOf
	}
	switch {
	case s.trouble != "" && s.State != Fresh:
		f.Note = s.trouble + " Next try at " + s.NextPolls[0].Format("15:04:05") + " UTC."
	case s.LagEntries > 0:
		f.Note = "Copying: the source is ahead."
	}
	return f
}
