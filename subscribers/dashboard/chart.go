package dashboard

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

type step struct {
	Name  string // day
	begin func(time.Time) time.Time
	next  func(time.Time) time.Time
	days  int // approximately
}

var steps = []step{
	{"day", func(t time.Time) time.Time { return t }, func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }, 1},
	{"week", func(t time.Time) time.Time { return t.AddDate(0, 0, -int(t.Weekday()+6)%7) }, func(t time.Time) time.Time { return t.AddDate(0, 0, 7) }, 7},
	{"month", func(t time.Time) time.Time { return t.AddDate(0, 0, 1-t.Day()) }, func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }, 30},
	{"year", func(t time.Time) time.Time { return t.AddDate(0, 0, 1-t.YearDay()) }, func(t time.Time) time.Time { return t.AddDate(1, 0, 0) }, 365},
}

const (
	minColumns = 14 // without a filter
	maxColumns = 92 // the smallest step with no more columns is chosen
)

// A timeline has the sums of each step from the first day with orders to the last, or none if there are no orders.
type timeline struct {
	Step    step
	Periods []daySum // Day is the first of the period
}

// Timeline returns the timeline with the smallest step that fits.
func (s *statistics) Timeline() (l timeline) {
	if len(s.ByDay) == 0 {
		return l
	}
	first, last := s.ByDay[0].date(), s.ByDay[len(s.ByDay)-1].date()
	if s.filter == (filter{}) {
		first = slices.MinFunc([]time.Time{first, last.AddDate(0, 0, 1-minColumns)}, time.Time.Compare)
	}
	days := int(last.Sub(first)/(24*time.Hour)) + 1
	i := slices.IndexFunc(steps, func(s step) bool { return days <= maxColumns*s.days })
	if i < 0 {
		i = len(steps) - 1
	}
	l.Step = steps[i]
	at := map[string]int{}
	for begin := l.Step.begin(first); !begin.After(last); begin = l.Step.next(begin) {
		day := begin.Format(time.DateOnly)
		at[day] = len(l.Periods)
		l.Periods = append(l.Periods, daySum{Day: day})
	}
	for _, d := range s.ByDay {
		p := &l.Periods[at[l.Step.begin(d.date()).Format(time.DateOnly)]]
		p.Orders += d.Orders
		p.Cars += d.Cars
		p.RevenueCents += d.RevenueCents
	}
	return l
}

func (d daySum) date() time.Time {
	date, _ := time.Parse(time.DateOnly, d.Day) // the format that PostgreSQL writes
	return date
}

// NewestFirst returns the periods that have orders.
func (l timeline) NewestFirst() (list []daySum) {
	for _, p := range slices.Backward(l.Periods) {
		if p.Orders > 0 {
			list = append(list, p)
		}
	}
	return list
}

type chart struct {
	Title    string // Revenue by day
	Columns  []column
	Top, Mid string // labels of the scale, which begins at 0
	Best     column
}

type column struct {
	Day, Text string // a day and its value
	Height    string // in percent
	value     int64
}

func (c chart) First() column { return c.Columns[0] }
func (c chart) Last() column  { return c.Columns[len(c.Columns)-1] }

// Revenue returns the chart of the revenue.
func (s *statistics) Revenue() chart {
	return s.Timeline().draw("Revenue", func(d daySum) int64 { return d.RevenueCents }, s.Amount)
}

// Amount writes an amount for a glance: from a million on it is rounded to whole units, and .00 is left out.
func (s *statistics) Amount(cents int64) string {
	const million = 1_000_000_00
	if cents >= million {
		cents += 50 - (cents+50)%100
	}
	return strings.TrimSuffix(web.Money(cents, s.Currency), ".00")
}

// Sold returns the chart of the orders.
func (s *statistics) Sold() chart {
	return s.Timeline().draw("Orders", func(d daySum) int64 { return d.Orders }, web.Num)
}

func (l timeline) draw(what string, value func(daySum) int64, text func(int64) string) chart {
	c := chart{Title: what + " by " + l.Step.Name}
	for _, p := range l.Periods {
		v := value(p)
		c.Columns = append(c.Columns, column{Day: p.Day, Text: text(v), value: v})
	}
	c.Best = slices.MaxFunc(c.Columns, func(a, b column) int { return cmp.Compare(a.value, b.value) })
	top := roundUp(c.Best.value)
	for i := range c.Columns {
		c.Columns[i].Height = strconv.FormatFloat(100*float64(c.Columns[i].value)/float64(top), 'f', 2, 64)
	}
	c.Top, c.Mid = text(top), text(top/2)
	return c
}

// roundUp returns the end of a scale for values up to v. Its half is a round number, too: 2, 4, 6, 8, 10, 12, 16, 20,
// 30, 40, 60, 80, 100, 120 ...
func roundUp(v int64) int64 {
	for _, top := range []int64{2, 4, 6, 8} {
		if v <= top {
			return top
		}
	}
	for unit := int64(1); unit < 1e16; unit *= 10 {
		for _, top := range []int64{10, 12, 16, 20, 30, 40, 60, 80} {
			if v <= top*unit {
				return top * unit
			}
		}
	}
	return v
}

type bar struct {
	Label, Value string
	Part, Of     int64
}

func bars(n int, at func(int) (label string, value int64)) []bar {
	list, longest := make([]bar, n), int64(0)
	for i := range list {
		label, v := at(i)
		list[i] = bar{Label: strings.ReplaceAll(label, "_", " "), Value: web.Num(v), Part: v}
		longest = max(longest, v)
	}
	for i := range list {
		list[i].Of = longest
	}
	return list
}

// Models returns the cars sold per model.
func (s *statistics) Models() []bar {
	return bars(len(s.ByModel), func(i int) (string, int64) { return s.ByModel[i].Model, s.ByModel[i].Cars })
}

// Options returns the cars sold per option.
func (s *statistics) Options() []bar {
	return bars(len(s.ByOption), func(i int) (string, int64) { return s.ByOption[i].Option, s.ByOption[i].Cars })
}

// Stages returns the orders per stage.
func (s *statistics) Stages() []bar {
	return bars(len(s.ByStage), func(i int) (string, int64) { return s.ByStage[i].Stage, s.ByStage[i].Orders })
}

// Open returns the number of orders with cars that have not left.
func (s *statistics) Open() (open int64) {
	for _, by := range s.ByStage {
		if by.Stage != "shipped" {
			open += by.Orders
		}
	}
	return open
}

// Median returns the median in its largest unit, with two digits.
func (l leadTime) Median() string { return duration(l.MedianSeconds) }

// P90 returns the 90th percentile in its largest unit, with two digits.
func (l leadTime) P90() string { return duration(l.P90Seconds) }

func duration(seconds int64) string {
	unit, name := 1.0, "s"
	switch {
	case seconds >= 48*3600:
		unit, name = 24*3600, "days"
	case seconds >= 100*60:
		unit, name = 3600, "h"
	case seconds >= 100:
		unit, name = 60, "min"
	}
	v, digits := float64(seconds)/unit, 0
	if v < 10 && unit > 1 {
		digits = 1
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', digits, 64), ".0") + " " + name
}
