package subscribehttp

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A Preview is what settings would cost and bring, with what is odd about them.
type Preview struct {
	subscribe.Preview
	Warnings []string `json:"warnings"`
}

// previews are the parameters of a preview: the fields of the form.
var previews = []string{"schedule", "wait", "page_size", "reset"}

func wantsPreview(query url.Values) bool { return slices.ContainsFunc(previews, query.Has) }

// schedule answers with the subscription or, if there are settings in the query, with their preview.
func (p *Pages) schedule(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	var shown *Preview
	if query := r.URL.Query(); wantsPreview(query) {
		preview, err := previewOf(r, s, query)
		if err != nil {
			return err
		}
		shown = &preview
	}
	switch {
	case web.PrefersHTML(r):
		return p.renderForm(w, r, s, shown, nil)
	case shown != nil:
		answer(w, r, http.StatusOK, shown)
	default:
		answer(w, r, http.StatusOK, s.Status())
	}
	return nil
}

func previewOf(r *http.Request, s *subscribe.Subscription, query url.Values) (p Preview, err error) {
	polls, err := s.Polls(r.Context())
	if err != nil { // costs are known without them
		polls = nil
	}
	if query.Has("reset") {
		p.Preview = s.PreviewReset(polls)
	} else if p.Preview, err = s.Preview(tuneRequest(query), polls); err != nil {
		return p, err
	}
	p.Warnings = p.warnings()
	return p, nil
}

// A Comparison is a line of a preview.
type Comparison struct {
	Name, Current, Proposed string
	Code                    bool // it is an expression
}

// Changed reports whether the settings differ in this line.
func (c Comparison) Changed() bool { return c.Current != c.Proposed }

// Lines compares the proposed settings with those in force.
func (p Preview) Lines() []Comparison {
	var lines []Comparison
	add := func(name string, of func(subscribe.Plan) string) {
		lines = append(lines, Comparison{Name: name, Current: of(p.Current), Proposed: of(p.Proposed)})
	}
	add("Schedule", func(p subscribe.Plan) string { return p.Schedule })
	lines[0].Code = true
	add("Wait", func(p subscribe.Plan) string {
		if p.Wait == "0s" {
			return "none"
		}
		return p.Wait
	})
	add("Page size", func(p subscribe.Plan) string { return web.Num(int64(p.PageSize)) })
	add("Polls while nothing is new", func(p subscribe.Plan) string { return aDay(p.Cost.RequestsPerDay) })
	if p.Measured.EntriesPerDay != nil {
		add("Polls as entries come now", func(p subscribe.Plan) string { return aDay(*p.PollsPerDay) })
		add("Requests as entries come now", func(p subscribe.Plan) string { return aDay(*p.RequestsPerDay) })
	}
	add("Delay", func(p subscribe.Plan) string { return delay(p.Cost) })
	if p.Current.Cost.Held() || p.Proposed.Cost.Held() {
		add("Delay without waiting", func(p subscribe.Plan) string { return delay(p.WithoutWait) })
	}
	add("Delay with waiting", func(p subscribe.Plan) string {
		if p.Wait == "0s" {
			return delay(p.WithWait) + "; a wait of 25s polls " + aDay(p.WithWait.RequestsPerDay)
		}
		return delay(p.WithWait)
	})
	add("Next polls", func(plan subscribe.Plan) string {
		if p.Paused {
			return "none until polling is resumed"
		}
		return times(plan.NextPolls)
	})
	return lines
}

// Facts are what was measured, as pairs of a name and a text.
func (p Preview) Facts() [][2]string {
	m := p.Measured
	if m.Polls == 0 {
		return nil
	}
	facts := [][2]string{
		{"Polls", fmt.Sprintf("%d since %s", m.Polls, m.Since.UTC().Format("2 Jan 2006, 15:04:05 UTC"))},
		{"Nothing new (304)", fmt.Sprintf("%d, %.0f %%", m.NotModified, 100*float64(m.NotModified)/float64(m.Polls))},
		{"Failed", strconv.Itoa(m.Failed)},
		{"Entries", strconv.FormatFloat(m.EntriesPerPoll, 'f', -1, 64) + " a poll"},
		{"Received", size(int64(m.BytesPerPoll)) + " a poll, compressed"},
	}
	if m.EntriesPerDay != nil {
		facts[3][1] += ", about " + web.Num(int64(math.Round(*m.EntriesPerDay))) + " a day"
	}
	return facts
}

// size writes bytes in a unit of 1000.
func size(bytes int64) string {
	switch {
	case bytes < 1000:
		return fmt.Sprintf("%d bytes", bytes)
	case bytes < 1_000_000:
		return fmt.Sprintf("%.1f kB", float64(bytes)/1000)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/1_000_000)
}

// aDay writes how often something happens.
func aDay(n float64) string {
	switch {
	case n >= 2:
		return web.Num(int64(math.Round(n))) + " a day"
	case n == 0:
		return "hardly ever"
	}
	return "one in " + span(day.Seconds()/n)
}

func delay(c subscribe.Cost) string {
	if c.Held() {
		return "milliseconds, " + span(c.Worst) + " at most"
	}
	return span(c.Expected) + " on average, " + span(c.Worst) + " at most"
}

// times writes times of day, with the date where it changes.
func times(list []time.Time) string {
	now := time.Now().UTC()
	last := now.Format(time.DateOnly)
	var words []string
	for _, t := range list {
		layout := "15:04:05"
		if date := t.Format(time.DateOnly); date != last {
			last, layout = date, "2 Jan, 15:04:05"
			if t.Year() != now.Year() {
				layout = "2 Jan 2006, 15:04:05"
			}
		}
		words = append(words, t.Format(layout))
	}
	return strings.Join(words, "; ") + " UTC"
}

const (
	oftenPerDay = 20_000       // requests: more than one in 4.3 s
	longGap     = 24 * 60 * 60 // seconds
)

// step matches a field such as */7.
var step = regexp.MustCompile(`^\*/(\d+)$`)

// warnings says what is odd about the proposed settings.
func (p Preview) warnings() []string {
	list := []string{} // in JSON, an empty list
	warn := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	to, without := p.Proposed, p.Proposed.WithoutWait
	same := p.Current
	same.ScheduleSource = to.ScheduleSource
	if same.Schedule == to.Schedule && same.Wait == to.Wait && same.PageSize == to.PageSize {
		warn("These settings are in force already.")
	}
	if p.Paused {
		warn("The subscription is paused: nothing is polled until it is resumed.")
	}
	waits := to.Wait != "0s"
	if waits && !p.Held {
		warn("The source answers waiting requests at once, so that the schedule alone holds.")
	}
	if to.Cost.RequestsPerDay > oftenPerDay {
		advice := ""
		if !waits {
			advice = " With a wait of 25s the copy is fresher, for 3,456 requests a day."
		}
		warn("It asks the source %s while nothing is new.%s", aDay(to.Cost.RequestsPerDay), advice)
	}
	if without.RequestsPerDay > 0 && !to.Cost.Held() {
		if mean := day.Seconds() / without.RequestsPerDay; without.Worst >= 3600 && without.Worst > 3*mean && mean < longGap {
			warn("Its polls are uneven: there are %s a day on average, but up to %s between two.", web.Num(int64(math.Round(without.RequestsPerDay))), span(without.Worst))
		} else if without.Worst > longGap {
			warn("The copy is up to %s old between two polls.", span(without.Worst))
		}
	}
	fields := strings.Fields(to.Schedule)
	if n := len(fields); n == 5 || n == 6 {
		if n == 6 && fields[0] == "*" {
			warn("It has six fields, so that the first one is the second: a star there polls every second.")
		}
		fields = fields[n-5:]
		for i, unit := range []string{"an hour", "a day"} {
			if m := step.FindStringSubmatch(fields[i]); m != nil {
				if every, _ := strconv.Atoi(m[1]); every > 0 && []int{60, 24}[i]%every != 0 {
					warn("%s starts again, so that the last step of %s is shorter.", fields[i], unit)
				}
			}
		}
		if fields[0] == "*" && fields[1] != "*" {
			warn("The minute is a star: it polls every minute of the hours %s.", fields[1])
		}
		if !strings.HasPrefix(fields[2], "*") && fields[2] != "?" && !strings.HasPrefix(fields[4], "*") && fields[4] != "?" {
			warn("Both the day of the month and the day of the week are set: it polls on days that match either.")
		}
	}
	return list
}
