package subscribe

import (
	"errors"
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
	LagEntries     int64       `json:"lag_entries"` // how many entries the source had beyond the copy when it last answered
	State          string      `json:"state"`
	AsOf           *time.Time  `json:"as_of"`           // the copy is what the source had then; null: there is none yet
	LastSuccessAt  *time.Time  `json:"last_success_at"` // null: never
	LastError      *string     `json:"last_error"`      // of the last poll; null if it succeeded
}

func (p *poller) status(now time.Time) Subscription {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Subscription{
		Feed: p.Name, URL: p.URL, Schedule: p.schedule.String(), ScheduleSource: p.scheduleSource,
		NextPolls: p.schedule.NextN(now, 5), Cursor: p.copied.cursor, State: Fresh,
		LagEntries: max(p.copied.headPosition-p.copied.cursor.Position, 0),
		AsOf:       timeOrNull(p.copied.asOf), LastSuccessAt: timeOrNull(p.copied.lastSuccess),
	}
	if p.lastError != nil {
		text := p.lastError.Error()
		s.LastError = &text
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

// freshness is the same for the banner of a page.
func (s *Subscription) freshness() web.Freshness {
	f := web.Freshness{Feed: s.Feed, State: s.State}
	if s.AsOf != nil {
		f.AsOf = *s.AsOf
	}
	switch {
	case s.LastError != nil && s.State != Fresh:
		f.Note = "The last poll failed: " + *s.LastError + "."
	case s.LagEntries > 0:
		f.Note = "Copying: the source is ahead."
	}
	return f
}
