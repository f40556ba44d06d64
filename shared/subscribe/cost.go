package subscribe

import (
	"math"
	"math/bits"
	"time"

	"github.com/robfig/cron/v3"
)

// A Cost is what a schedule costs the source, and how stale the copy is by it, while nothing fails.
type Cost struct {
	RequestsPerDay float64 `json:"requests_per_day"`   // on average over the years, while there is nothing new
	Expected       float64 `json:"expected_staleness"` // seconds from an entry's commit until it is asked for, on average
	Worst          float64 `json:"worst_staleness"`    // and at most
}

// A waiting request is answered as soon as there is something new. The source also checks once a second, in case it was
// not notified.
const (
	heldExpected = 0.001
	heldWorst    = 1
)

const day = 24 * time.Hour

// cost returns the cost of the tuning. held says that the source holds waiting requests.
func (t tuning) cost(held bool) Cost {
	if t.wait > 0 && held {
		return Cost{RequestsPerDay: rounded(float64(day) / float64(t.wait)), Expected: heldExpected, Worst: heldWorst}
	}
	return t.schedule.cost
}

// Held reports whether the source holds requests until there is something new.
func (c Cost) Held() bool { return c.Expected == heldExpected }

// rounded rounds to six decimals.
func rounded(v float64) float64 { return math.Round(v*1e6) / 1e6 }

func costOf(s cron.Schedule) Cost {
	switch s := s.(type) {
	case everyDuration:
		every := time.Duration(s)
		return Cost{RequestsPerDay: rounded(float64(day) / float64(every)), Expected: rounded(every.Seconds() / 2), Worst: every.Seconds()}
	case *cron.SpecSchedule:
		return costOfCron(s)
	}
	return Cost{}
}

// calendarDays is the number of days after which dates fall on the same days of the week again: 28 years, until 2100.
const calendarDays = 28*365 + 7

// costOfCron measures the gaps between fires. An entry may come at any moment: it falls into a gap of length g with a
// probability proportional to g, and then waits for g/2 on average.
func costOfCron(s *cron.SpecSchedule) Cost {
	first, last, fires, inDay, squares := timesOfDay(s)
	sum, sumSquares, worst, count := 0.0, 0.0, inDay, 0.0
	start, before := -1, 0
	for n, on := 0, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); start < 0 || n <= start+calendarDays; n, on = n+1, on.AddDate(0, 0, 1) {
		if !dayMatches(s, on) {
			continue
		}
		if start < 0 {
			start, before = n, n
			continue
		}
		days := float64(n-before) * day.Seconds()
		overNight := days - last + first
		sum, sumSquares, worst, count, before = sum+days, sumSquares+squares+overNight*overNight, max(worst, overNight), count+fires, n
	}
	return Cost{RequestsPerDay: rounded(count / sum * day.Seconds()), Expected: rounded(sumSquares / sum / 2), Worst: worst}
}

// dayMatches reports whether the schedule fires on the day. If both the day of the month and the day of the week are
// restricted, one of them is enough.
func dayMatches(s *cron.SpecSchedule, on time.Time) bool {
	ofMonth, ofWeek := s.Dom>>on.Day()&1 == 1, s.Dow>>on.Weekday()&1 == 1
	either := ofMonth || ofWeek
	if (s.Dom|s.Dow)&starBit != 0 {
		either = ofMonth && ofWeek
	}
	return either && s.Month>>on.Month()&1 == 1
}

// timesOfDay returns the first and last second of a day at which s fires, the number of fires, the longest gap between
// two, and the sum of the squares of all gaps.
func timesOfDay(s *cron.SpecSchedule) (first, last, fires, longest, squares float64) {
	for h := s.Hour &^ starBit; h != 0; h &= h - 1 {
		for m := s.Minute &^ starBit; m != 0; m &= m - 1 {
			for sec := s.Second &^ starBit; sec != 0; sec &= sec - 1 {
				at := float64(bits.TrailingZeros64(h)*3600 + bits.TrailingZeros64(m)*60 + bits.TrailingZeros64(sec))
				if fires == 0 {
					first, last = at, at
				}
				longest, squares = max(longest, at-last), squares+(at-last)*(at-last)
				fires, last = fires+1, at
			}
		}
	}
	return first, last, fires, longest, squares
}

const starBit = 1 << 63 // of a field that was a star, as cron marks it
