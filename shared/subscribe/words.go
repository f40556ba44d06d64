package subscribe

import (
	"fmt"
	"math"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

// What the pages say of a subscription.

// Trouble returns the last error in a sentence.
func (s Subscription) Trouble() string { return s.trouble }

// Undated tells that there is a copy, but how old it is is not known: the clock was set back since.
func (s Subscription) Undated() bool { return s.undated }

// Failing says since when polls fail; empty: they do not.
func (s Subscription) Failing() string {
	if s.FailingSince == nil {
		return ""
	}
	at := s.FailingSince.Format("15:04:05") + " UTC"
	if time.Since(*s.FailingSince) > day/2 {
		at = s.FailingSince.Format("2 Jan, ") + at
	}
	if s.State == Paused {
		return "the last polls failed, from " + at + " on"
	}
	return "polls fail since " + at
}

// Rejected counts the entries that could not be applied.
func (s Subscription) Rejected() string { return entries(s.RejectedEntries) }

// Held tells that a request waits at the source.
func (s Subscription) Held() bool { return s.held && s.State == Fresh && !s.Standby }

// Unknown tells that this process does not poll, and cannot say whether another one does.
func (s Subscription) Unknown() bool { return s.unknown }

// NotHeld tells that requests are to wait, but the source answers at once.
func (s Subscription) NotHeld() bool { return s.notHeld }

// Cut says for how long a request waits since longer ones are cut off on their way; empty: none is.
func (s Subscription) Cut() string { return s.cut }

// next says when the source is asked next, in the few words of a page's top; empty: not at all.
func (s *Subscription) next() string {
	switch {
	case s.unknown:
		return ""
	case s.Standby:
		return "by another process"
	case s.Held():
		return "now, waiting at the source"
	case len(s.NextPolls) == 0:
		return ""
	case time.Until(s.NextPolls[0]) < day:
		return s.NextPolls[0].Format("15:04:05") + " UTC"
	}
	return s.NextPolls[0].Format("2 Jan, 15:04:05") + " UTC"
}

// UnderWay tells that it will soon be otherwise.
func (s Subscription) UnderWay() bool {
	return s.State != Paused && (s.CatchingUp != nil || s.LastError == nil && (s.AsOf == nil || s.LagEntries > 0 || s.ResyncSince != nil))
}

// Requests says how many there are.
func (c Cost) Requests() string {
	if c.RequestsPerDay >= 2 {
		return "about " + web.Num(int64(math.Round(c.RequestsPerDay))) + " requests a day"
	}
	if c.RequestsPerDay == 0 {
		return "hardly ever a request"
	}
	return "about one request in " + span(day.Seconds()/c.RequestsPerDay)
}

// Staleness says how long something new stays unknown.
func (c Cost) Staleness() string {
	if c.Expected == heldExpected {
		return "milliseconds, " + span(c.Worst) + " at most"
	}
	return span(c.Expected) + " on average, " + span(c.Worst) + " at most"
}

// Words say how far and how fast.
func (p *Pace) Words() string {
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
