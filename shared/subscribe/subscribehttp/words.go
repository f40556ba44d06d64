package subscribehttp

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A Status is how a copy is, in the words of the pages.
type Status struct{ subscribe.Status }

// Trouble returns the last error in a sentence, or nothing if the last poll succeeded.
func (s Status) Trouble() string {
	if s.Detail.Err == nil {
		return ""
	}
	return subscribe.InWords(s.Detail.Err)
}

// Failing says since when polls fail; empty: they do not.
func (s Status) Failing() string {
	if s.FailingSince == nil {
		return ""
	}
	at := s.FailingSince.Format("15:04:05") + " UTC"
	if time.Since(*s.FailingSince) > day/2 {
		at = s.FailingSince.Format("2 Jan, ") + at
	}
	if s.State == subscribe.Paused {
		return "the last polls failed, from " + at + " on"
	}
	return "polls fail since " + at
}

// Rejected counts the entries that could not be applied.
func (s Status) Rejected() string { return entries(s.RejectedEntries) }

// Held tells that a request waits at the source.
func (s Status) Held() bool { return s.Detail.Held && s.State == subscribe.Fresh && !s.Standby }

// next says when the source is asked next, in words or as a time; neither: not at all.
func (s Status) next() (string, time.Time) {
	switch {
	case s.Detail.Unknown:
	case s.Standby:
		return "by another process", time.Time{}
	case s.Held():
		return "now, waiting at the source", time.Time{}
	case len(s.NextPolls) > 0:
		return "", s.NextPolls[0]
	}
	return "", time.Time{}
}

// Next says in words when the source is asked next; if it is empty, NextAt has the time.
func (s Status) Next() string {
	words, _ := s.next()
	return words
}

// NextAt returns when the source is asked next; zero means that Next says it, or that it is not asked.
func (s Status) NextAt() time.Time {
	_, at := s.next()
	return at
}

// Delay says how long something new stays unknown, in a few words.
func (s Status) Delay() string {
	if s.Cost.Held() {
		return "milliseconds"
	}
	return span(s.Cost.Expected) + ", at most " + span(s.Cost.Worst)
}

// rank puts trouble first.
func (s Status) rank() int {
	switch {
	case s.State == subscribe.Diverged:
		return 0
	case s.State == subscribe.Stale:
		return 1
	case s.State != subscribe.Paused && s.FailingSince != nil:
		return 2
	case s.RejectedEntries > 0:
		return 3
	case s.State != subscribe.Fresh:
		return 4
	}
	return 5
}

// UnderWay tells that it will soon be otherwise.
func (s Status) UnderWay() bool {
	return s.State != subscribe.Paused && (s.CatchingUp != nil || s.LastError == nil && (s.AsOf == nil || s.LagEntries > 0 || s.ResyncSince != nil))
}

// Requests says how many there are.
func (s Status) Requests() string {
	c := s.Cost
	if c.RequestsPerDay >= 2 {
		return "about " + web.Num(int64(math.Round(c.RequestsPerDay))) + " requests a day"
	}
	if c.RequestsPerDay == 0 {
		return "hardly ever a request"
	}
	return "about one request in " + span(day.Seconds()/c.RequestsPerDay)
}

// Staleness says how long something new stays unknown.
func (s Status) Staleness() string {
	return delay(s.Cost)
}

// Copying says how far and how fast a poll copies.
func (s Status) Copying() string {
	p := s.CatchingUp
	words := entries(p.Copied) + " copied"
	if p.PerSecond > 0 {
		words += ", " + web.Num(int64(p.PerSecond)) + " a second"
	}
	if p.Left > 0 {
		words += ", about " + span(p.Left) + " left"
	}
	return words
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return web.Num(int64(n)) + " entries"
}

// span writes seconds in its two largest units: 2.5 s, 1 h 30 min, 2 days 14 h.
func span(seconds float64) string {
	d := time.Duration(math.Round(seconds*1000)) * time.Millisecond
	if d < time.Minute {
		return fmt.Sprintf("%.3g s", d.Seconds())
	}
	units := []struct {
		size time.Duration
		name string
	}{{day, " days"}, {time.Hour, " h"}, {time.Minute, " min"}, {time.Second, " s"}}
	for i, u := range units {
		if d < u.size {
			continue
		}
		n := d / u.size
		words := fmt.Sprint(int64(n)) + u.name
		if n == 1 && u.size == day {
			words = "1 day"
		}
		if i+1 < len(units) {
			if rest := d % u.size / units[i+1].size; rest > 0 {
				words += fmt.Sprintf(" %d%s", rest, units[i+1].name)
			}
		}
		return words
	}
	return ""
}

const day = 24 * time.Hour

// Freshness returns the same for the top of a page.
func (s Status) Freshness() web.Freshness {
	f := web.Freshness{
		Feed: s.Feed, State: s.State, Behind: s.LagEntries, URL: pathOf(s.Feed), Source: s.Detail.Source, Undated: s.Detail.Undated,
		Schedule: s.Schedule, Wait: s.Wait, SetWait: s.Detail.Set.Wait, SetPageSize: s.Detail.Set.PageSize,
	}
	f.Next, f.NextAt = s.next()
	if s.AsOf != nil {
		f.AsOf = *s.AsOf
	}
	if s.FailingSince != nil {
		f.FailingSince, f.Failing = *s.FailingSince, "polls fail since"
		switch s.State {
		case subscribe.Paused:
			f.Failing = "the last polls failed, since"
		case subscribe.Fresh:
			f.Failing = "but polls fail since"
		}
	}
	var notes []string
	switch {
	case s.Detail.Err != nil && len(s.NextPolls) > 0:
		notes, f.Retry = append(notes, s.Trouble()), s.NextPolls[0]
	case s.LagEntries > 0 && s.State != subscribe.Paused && s.State != subscribe.Fresh:
		notes = append(notes, "Copying: the source is ahead.")
	}
	if s.RejectedEntries > 0 {
		notes = append(notes, "Without "+entries(s.RejectedEntries)+" that could not be applied.")
	}
	f.Note = strings.Join(notes, " ")
	return f
}

// Header returns the field Datafeed-Copy, a Structured Field item (RFC 9651): orders; state=fresh;
// as_of="2026-11-23T08:00:00.000000Z"; rejected=2. While polls fail it has failing_since, too. The copy of one of several
// sources begins with orders; source=eu.
func (s Status) Header() string {
	h, source := subscribe.Of(s.Feed)
	if source != "" { // an item of this kind cannot have the character @
		h += "; source=" + source
	}
	h += "; state=" + s.State
	if s.AsOf != nil {
		h += `; as_of="` + s.AsOf.UTC().Format(web.TimeFormat) + `"`
	}
	if s.FailingSince != nil {
		h += `; failing_since="` + s.FailingSince.UTC().Format(web.TimeFormat) + `"`
	}
	if s.RejectedEntries > 0 {
		h += "; rejected=" + strconv.Itoa(s.RejectedEntries)
	}
	return h
}
