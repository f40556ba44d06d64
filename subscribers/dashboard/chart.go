package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

type step struct {
	Name   string // day
	begin  func(time.Time) time.Time
	next   func(time.Time) time.Time
	length time.Duration // approximately
	format string        // of the begin
}

const day = 24 * time.Hour

var steps = []step{
	{"hour", func(t time.Time) time.Time { return t.Truncate(time.Hour) }, func(t time.Time) time.Time { return t.Add(time.Hour) }, time.Hour, "2 Jan, 15:04"},
	{"day", func(t time.Time) time.Time { return t.Truncate(day) }, func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }, day, "2 Jan 2006"},
	{"week", func(t time.Time) time.Time { return t.Truncate(day).AddDate(0, 0, -int(t.Weekday()+6)%7) }, func(t time.Time) time.Time { return t.AddDate(0, 0, 7) }, 7 * day, "2 Jan 2006"},
	{"month", func(t time.Time) time.Time { return t.Truncate(day).AddDate(0, 0, 1-t.Day()) }, func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }, 30 * day, "Jan 2006"},
	{"year", func(t time.Time) time.Time { return t.Truncate(day).AddDate(0, 0, 1-t.YearDay()) }, func(t time.Time) time.Time { return t.AddDate(1, 0, 0) }, 365 * day, "2006"},
}

const (
	minDays    = 14 // of days without a filter
	maxColumns = 92 // the smallest step with no more columns is chosen
)

// A span is the days that are shown, both included.
type span struct{ first, last time.Time }

// days returns the days of the filter, at most to today or the last order. Without a filter, or if it begins very
// early, they begin with the first order. There are orders.
func (s *statistics) days() span {
	earliest, last := s.ByDay[0].date(), s.ByDay[len(s.ByDay)-1].date()
	if today := s.now.Truncate(day); last.Before(today) {
		last = today
	}
	if to, err := time.Parse(time.DateOnly, s.To); err == nil && to.Before(last) {
		last = to
	}
	first := earliest
	if from, err := time.Parse(time.DateOnly, s.From); err == nil && from.After(last.AddDate(-maxColumns, 0, 0)) {
		first = from
	}
	shown := span{first, last}
	if s.filter == (filter{}) && !shown.step().hourly() {
		shown.first = slices.MinFunc([]time.Time{first, last.AddDate(0, 0, 1-minDays)}, time.Time.Compare)
	}
	return shown
}

func (s span) step() step {
	for _, step := range steps {
		if s.last.Sub(s.first) <= maxColumns*step.length-day {
			return step
		}
	}
	return steps[len(steps)-1]
}

func (s step) hourly() bool { return s.length == time.Hour }

// A period is an hour, a day, a week, a month or a year.
type period struct {
	Name                       string
	Orders, Cars, RevenueCents int64
}

// A timeline has the sums of each period that is shown, or none if there are no orders.
type timeline struct {
	Step    step
	Periods []period // to the present one
	Ahead   int      // hours of today that are yet to come
	End     string   // name of the last period, with those
	span    span
	current bool // the last period is not over
}

// Timeline returns the timeline with the smallest step that fits.
func (s *statistics) Timeline() (l timeline) {
	if len(s.ByDay) == 0 {
		return l
	}
	l.span = s.days()
	l.Step = l.span.step()
	at, end := map[time.Time]int{}, l.span.last.Add(day)
	format := l.Step.format
	if l.Step.hourly() && l.span.first.Equal(l.span.last) {
		format = "15:04"
	}
	for begin := l.Step.begin(l.span.first); begin.Before(end); begin = l.Step.next(begin) {
		l.End = begin.Format(format)
		if l.Step.hourly() && begin.After(s.now) && begin.After(s.lastHour()) {
			l.Ahead++
			continue
		}
		at[begin] = len(l.Periods)
		l.Periods = append(l.Periods, period{Name: l.End})
		l.current = s.now.Before(l.Step.next(begin))
	}
	add := func(t time.Time, orders, cars, cents int64) {
		p := &l.Periods[at[l.Step.begin(t)]]
		p.Orders += orders
		p.Cars += cars
		p.RevenueCents += cents
	}
	if l.Step.hourly() {
		for _, h := range s.ByHour {
			add(h.Hour.UTC(), h.Orders, h.Cars, h.RevenueCents)
		}
		return l
	}
	for _, d := range s.ByDay {
		add(d.date(), d.Orders, d.Cars, d.RevenueCents)
	}
	return l
}

func (s *statistics) lastHour() (t time.Time) {
	if len(s.ByHour) > 0 {
		t = s.ByHour[len(s.ByHour)-1].Hour
	}
	return t
}

func (d daySum) date() time.Time {
	date, _ := time.Parse(time.DateOnly, d.Day) // the format that PostgreSQL writes
	return date
}

// Words says what is shown, and of when.
func (l timeline) Words() string {
	first, last := l.span.first.Format("2 Jan 2006"), l.span.last.Format("2 Jan 2006")
	when := "from " + first + " to " + last
	if first == last {
		when = "on " + first
	}
	words := "Orders placed " + when + " (UTC), by " + l.Step.Name + "."
	none := 0
	for _, p := range l.Periods {
		if p.Orders == 0 {
			none++
		}
	}
	if none > 0 {
		words += fmt.Sprintf(" %s of %s %ss had no orders.", web.Num(int64(none)), web.Num(int64(len(l.Periods))), l.Step.Name)
	}
	if l.current {
		words += " The last " + l.Step.Name + " is not over."
	}
	return words
}

// NewestFirst returns the periods, with those that had no orders.
func (l timeline) NewestFirst() []period {
	list := slices.Clone(l.Periods)
	slices.Reverse(list)
	return list
}

type chart struct {
	Title    string // Revenue by day
	Columns  []column
	Width    int    // columns, with those of the hours to come
	End      string // the name of the last of these
	Top, Mid string // labels of the scale, which begins at 0
	Best     column
}

type column struct {
	Name, Text string // of the period, and its value
	Height     string // in percent
	Empty      bool   // it had no orders
	value      int64
}

func (c chart) First() column { return c.Columns[0] }
func (c chart) Last() column  { return c.Columns[len(c.Columns)-1] }

// A preset is a link to a range of days.
type preset struct {
	Text, URL string
	Shown     bool
}

// Presets returns the ranges up to today.
func (s *statistics) Presets() (list []preset) {
	today := s.now.Truncate(day)
	for _, p := range []struct {
		text string
		from time.Time
	}{
		{"Today", today}, {"7 days", today.AddDate(0, 0, -6)}, {"30 days", today.AddDate(0, 0, -29)}, {"90 days", today.AddDate(0, 0, -89)},
		{"12 months", time.Date(today.Year(), today.Month()-11, 1, 0, 0, 0, 0, time.UTC)}, {"All", time.Time{}},
	} {
		f := filter{}
		if !p.from.IsZero() {
			f.From = p.from.Format(time.DateOnly)
		}
		list = append(list, preset{p.text, "/" + f.Query(), f == s.filter})
	}
	return list
}

// Revenue returns the chart of the revenue.
func (s *statistics) Revenue() chart {
	return s.Timeline().draw("Revenue", func(p period) int64 { return p.RevenueCents }, s.Amount)
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
	return s.Timeline().draw("Orders", func(p period) int64 { return p.Orders }, web.Num)
}

func (l timeline) draw(what string, value func(period) int64, text func(int64) string) chart {
	c := chart{Title: what + " by " + l.Step.Name, Width: len(l.Periods) + l.Ahead, End: l.End}
	for _, p := range l.Periods {
		v := value(p)
		c.Columns = append(c.Columns, column{Name: p.Name, Text: text(v), Empty: p.Orders == 0, value: v})
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
