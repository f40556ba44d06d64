package subscribe

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// States of a copy.
const (
	Fresh     = "fresh"
	Stale     = "stale"     // two polls that were due have not succeeded: see Schedule.Stale
	Resyncing = "resyncing" // the feed is read again from its start, while the copy serves as it is
	Diverged  = "diverged"  // the source has another history than the copy, and the resync failed
	Paused    = "paused"
)

// A Status is how the copy of one feed is.
type Status struct {
	Feed string `json:"feed"`
	URL  string `json:"url"`
	Polling
	Copy
	RejectedEntries int `json:"rejected_entries"` // that could not be applied
	Resync
	Standby    bool          `json:"standby"`     // this process does not poll: another one of the service does, or the database does not answer
	CatchingUp *Pace         `json:"catching_up"` // while a poll copies; else null
	Stream     *StreamStatus `json:"stream"`      // null: it listens to none
	Detail     Detail        `json:"-"`
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

// A Copy says how far the copy of a feed has come, and how fresh it is.
type Copy struct {
	Cursor        feed.Cursor `json:"cursor"`
	LagEntries    int64       `json:"lag_entries"` // how many entries the source had beyond the copy when it last answered, as far as it said
	State         string      `json:"state"`
	AsOf          *time.Time  `json:"as_of"`           // the copy is what the source had then; null: there is none yet, or the clock was set back since
	LastSuccessAt *time.Time  `json:"last_success_at"` // null: never, or the clock was set back since
	FailingSince  *time.Time  `json:"failing_since"`   // the first poll that failed since one succeeded; null: none did
	LastError     *string     `json:"last_error"`      // of this process' last poll; null if it succeeded
}

// A Resync is how often, when and why a feed was read again: from its start or, if its source has lost the end of it, from
// there, as the reason then says.
type Resync struct {
	Generation   int        `json:"generation"`    // 1 and how often it was
	ResyncedAt   *time.Time `json:"resynced_at"`   // when that last ended; null: never
	ResyncReason string     `json:"resync_reason"` // of the resync under way, or else of the last one
	ResyncSince  *time.Time `json:"resync_since"`  // when the resync under way began; null: none is
}

// Detail is what a page may show in addition.
type Detail struct {
	Err      error                           // of this process' last poll; nil if it succeeded
	Cut      string                          // for how long a request waits since longer ones are cut off on their way; empty: none was
	Undated  bool                            // there is a copy, but its age is not known: the clock was set back since
	Held     bool                            // a request waits at the source, or is about to
	NotHeld  bool                            // requests are to wait, but the source answers at once
	Optional bool                            // as its feed is
	Source   string                          // URL of the feed as its source publishes it, for browsers; empty: the source has not said so to this process
	Unknown  bool                            // this process does not poll, and does not know whether another one does
	Set      struct{ Wait, PageSize string } // at run time; empty: not
	Given    struct {                        // what holds if nothing is set at run time
		Schedule, Wait string
		PageSize       int
	}
}

// A Pace is how fast a poll copies.
type Pace struct {
	Copied    int     `json:"copied"`               // entries
	PerSecond float64 `json:"per_second,omitempty"` // of them
	Left      float64 `json:"seconds_left,omitempty"`
}

func (p *poller) status(now time.Time) Status {
	s := p.state.status(now)
	s.Stream = p.stream.status(s.Standby)
	return s
}

func (st *state) status(now time.Time) Status {
	st.mu.Lock()
	defer st.mu.Unlock()
	asOf := believed(st.copied.asOf, now)
	s := Status{
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
		Detail: Detail{
			Err: st.last.err, Optional: st.Optional, Undated: asOf.IsZero() && !st.copied.asOf.IsZero(),
			Held: st.wait(now) > 0 && st.hold == holdKept, NotHeld: st.wait(now) > 0 && st.hold == holdIgnored, Unknown: st.requests.undecided(),
			Source: st.source,
		},
	}
	actual := st.tuned
	if actual.wait = st.wait(now); actual.wait < st.tuned.wait {
		s.Detail.Cut = actual.wait.String()
	}
	s.Cost = actual.cost(st.hold != holdIgnored)
	s.Detail.Given.Schedule, s.Detail.Given.Wait, s.Detail.Given.PageSize = st.given.schedule.String(), st.given.wait.String(), st.given.pageSize
	if at := st.copied; at.wait != nil {
		s.Detail.Set.Wait = at.wait.String()
	}
	if at := st.copied; at.pageSize != nil {
		s.Detail.Set.PageSize = strconv.Itoa(*at.pageSize)
	}
	if st.last.err != nil {
		text := st.last.err.Error()
		s.LastError = &text
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
	case errors.Is(st.last.err, feedclient.ErrDiverged):
		s.State = Diverged
	case st.copied.resync.underWay && !errors.Is(st.last.err, errSucceeded):
		s.State = Resyncing
	case st.stale(now) || errors.Is(st.last.err, errSucceeded):
		s.State = Stale
	}
	return s
}
