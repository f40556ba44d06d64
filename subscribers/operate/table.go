package operate

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/subscribe/subscribehttp"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A row is a line of the table of status: a copy, or a service that has none to show.
type row struct {
	rank  int // trouble first
	cells []string
}

// Ranks of rows. Those below calm need attention.
const (
	rankDown = iota
	rankRefused
	rankNotReady
	rankDiverged
	rankStale
	rankFailing
	rankRejected
	calm
	rankUnderWay
	rankPaused
	rankFresh
)

var statusHead = []string{"SERVICE", "FEED", "STATE", "AGE", "LAG", "REJECTED", "SCHEDULE", "NEXT", "MESSAGE"}

func rowsOf(reports []report, now time.Time) []row {
	var rows []row
	for _, r := range reports {
		if r.Status != up || len(r.copies) == 0 {
			rank := map[string]int{down: rankDown, refused: rankRefused, notReady: rankNotReady, up: rankFresh}[r.Status]
			message := r.Detail
			if r.Status == up {
				message = "copies no feed"
			}
			rows = append(rows, row{rank, []string{r.Service, "-", r.Status, "-", "-", "-", "-", "-", message}})
		}
		for _, s := range r.copies {
			rows = append(rows, row{rankOf(s), []string{
				r.Service, s.Feed, stateOf(s), ageOf(s.AsOf, now), web.Num(s.LagEntries), web.Num(int64(s.RejectedEntries)), scheduleOf(s), nextOf(s, now), messageOf(s),
			}})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.rank, b.rank) })
	return rows
}

func rankOf(s subscribe.Status) int {
	switch {
	case s.State == subscribe.Diverged:
		return rankDiverged
	case s.State == subscribe.Stale:
		return rankStale
	case s.State != subscribe.Paused && s.FailingSince != nil:
		return rankFailing
	case s.RejectedEntries > 0:
		return rankRejected
	case s.State == subscribe.Paused:
		return rankPaused
	case s.State == subscribe.Fresh && s.AsOf != nil:
		return rankFresh
	}
	return rankUnderWay
}

func stateOf(s subscribe.Status) string {
	if s.FailingSince != nil && s.State != subscribe.Paused {
		return s.State + ", failing"
	}
	return s.State
}

func scheduleOf(s subscribe.Status) string {
	if s.Wait != "0s" {
		return s.Schedule + ", wait " + s.Wait
	}
	return s.Schedule
}

func nextOf(s subscribe.Status, now time.Time) string {
	switch {
	case s.Standby:
		return "standby"
	case s.Cost.Held() && s.State == subscribe.Fresh && s.FailingSince == nil:
		return "waiting"
	case len(s.NextPolls) == 0:
		return "-"
	}
	return span(s.NextPolls[0].Sub(now))
}

func messageOf(s subscribe.Status) string {
	switch {
	case s.LastError != nil:
		return *s.LastError
	case s.CatchingUp != nil:
		return subscribehttp.Status{Status: s}.Copying()
	case s.State == subscribe.Resyncing:
		return s.ResyncReason
	}
	return ""
}

func ageOf(at *time.Time, now time.Time) string {
	if at == nil {
		return "-"
	}
	return span(now.Sub(*at))
}

// span writes a duration in its largest unit: 12s, 3m, 5h, 2d.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func printRows(w io.Writer, rows []row) error {
	table := [][]string{statusHead}
	for _, r := range rows {
		table = append(table, r.cells)
	}
	return printTable(w, table)
}

// printTable aligns the columns. Cells may have any text.
func printTable(w io.Writer, table [][]string) error {
	var aligned strings.Builder
	tw := tabwriter.NewWriter(&aligned, 0, 0, 3, ' ', 0)
	for _, cells := range table {
		for i := range cells {
			cells[i] = plain(cells[i])
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	tw.Flush()
	for line := range strings.Lines(aligned.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// plain returns the text on one line, without the control characters of terminals.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

// describe prints all of a copy.
func describe(w io.Writer, service string, s subscribe.Status, now time.Time) error {
	words := subscribehttp.Status{Status: s}
	asOf := "nothing yet"
	if s.AsOf != nil {
		asOf = s.AsOf.UTC().Format("2006-01-02 15:04:05 UTC") + ", " + ageOf(s.AsOf, now) + " ago"
	}
	var next []string
	for _, at := range s.NextPolls {
		next = append(next, at.UTC().Format("15:04:05"))
	}
	table := [][]string{
		{service + "/" + s.Feed + ":", stateOf(s)},
		{"  source", s.URL},
		{"  as of", asOf},
		{"  cursor", s.Cursor.String() + ", " + plural(int(s.LagEntries), "entry", "entries") + " behind"},
		{"  schedule", fmt.Sprintf("%s, page size %d (%s)", scheduleOf(s), s.PageSize, setBy[s.ScheduleSource])},
		{"  cost", words.Requests() + "; something new is asked for after " + words.Staleness()},
	}
	if len(next) > 0 {
		table = append(table, []string{"  next polls", strings.Join(next, ", ") + " UTC"})
	}
	if s.Standby {
		table = append(table, []string{"  standby", "another process of the service polls"})
	}
	if s.RejectedEntries > 0 {
		table = append(table, []string{"  rejected", words.Rejected() + "; see subscribers rejected " + service + " " + s.Feed})
	}
	if failing := words.Failing(); failing != "" {
		table = append(table, []string{"  failing", failing})
	}
	if message := messageOf(s); message != "" {
		table = append(table, []string{"  message", message})
	}
	return printTable(w, table)
}

var setBy = map[string]string{"default": "default", "environment": "set by the environment", "runtime": "set at run time"}

// describePreview compares settings with those in force.
func describePreview(w io.Writer, service string, p subscribehttp.Preview) error {
	table := [][]string{{service + "/" + p.Feed, "NOW", "PROPOSED"}}
	for _, l := range p.Lines() {
		table = append(table, []string{l.Name, l.Current, l.Proposed})
	}
	if err := printTable(w, table); err != nil {
		return err
	}
	facts := [][]string{{"", ""}}
	for _, f := range p.Facts() {
		facts = append(facts, []string{f[0], f[1]})
	}
	for _, warning := range p.Warnings {
		facts = append(facts, []string{"Warning", warning})
	}
	facts = append(facts, []string{"Nothing is set yet", ""})
	return printTable(w, facts)
}
