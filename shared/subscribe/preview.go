package subscribe

import (
	"math"
	"time"
)

// A Preview compares settings with those in force, before they are set.
type Preview struct {
	Feed     string   `json:"feed"`
	Current  Plan     `json:"current"`
	Proposed Plan     `json:"proposed"`
	Measured Measured `json:"measured"`
	Held     bool     `json:"held"`   // false: the source was seen to answer waiting requests at once
	Paused   bool     `json:"paused"` // no poll is due until polling is resumed, whatever is set
}

// A Plan is what settings cost and bring, while nothing fails.
type Plan struct {
	Schedule       string `json:"schedule"`
	ScheduleSource string `json:"schedule_source"`
	Wait           string `json:"wait"`
	PageSize       int    `json:"page_size"`
	Cost           Cost   `json:"cost"`
	// PollsPerDay and RequestsPerDay hold if entries come as often as in Measured; null: that is not known.
	PollsPerDay    *float64    `json:"polls_per_day"`
	RequestsPerDay *float64    `json:"requests_per_day"`
	WithoutWait    Cost        `json:"cost_without_wait"`
	WithWait       Cost        `json:"cost_with_wait"` // of its wait or, if that is 0s, of 25s
	NextPolls      []time.Time `json:"next_polls"`
}

// A Measured is what the last polls show.
type Measured struct {
	Polls          int        `json:"polls"`
	Since          *time.Time `json:"since"` // when the first of them began; null: there is none
	NotModified    int        `json:"not_modified"`
	Failed         int        `json:"failed"`
	EntriesPerPoll float64    `json:"entries_per_poll"`
	BytesPerPoll   float64    `json:"bytes_per_poll"`  // as they were sent: compressed
	EntriesPerDay  *float64   `json:"entries_per_day"` // that came after the first poll; null: not known, or too soon to say
}

// usualWait is what a request waits in a plan that compares waiting with not waiting.
const usualWait = 25 * time.Second

func (st *state) preview(to setting, polls []Poll, now time.Time) Preview {
	st.mu.Lock()
	defer st.mu.Unlock()
	held, m := st.hold != holdIgnored, Measure(polls)
	return Preview{
		Feed: st.Name, Current: st.tuned.plan(held, m, now), Proposed: st.effective(progress{setting: to}).plan(held, m, now), Measured: m,
		Held: held, Paused: st.copied.paused,
	}
}

// Measure returns what polls show, which are in the order of [Subscription.Polls].
func Measure(polls []Poll) (m Measured) {
	m.Polls = len(polls)
	if m.Polls == 0 {
		return m
	}
	first := polls[len(polls)-1]
	m.Since = &first.StartedAt
	var entries, bytes float64
	for _, p := range polls {
		entries, bytes = entries+float64(p.Entries), bytes+float64(p.Bytes)
		switch p.Outcome {
		case PollNotModified:
			m.NotModified++
		case PollFailed:
			m.Failed++
		}
	}
	n := float64(len(polls))
	m.EntriesPerPoll, m.BytesPerPoll = math.Round(100*entries/n)/100, math.Round(bytes/n)
	// The entries of the first poll came before it, nobody knows since when.
	if over := polls[0].end().Sub(first.end()); over >= time.Minute {
		perDay := rounded((entries - float64(first.Entries)) / over.Seconds() * day.Seconds())
		m.EntriesPerDay = &perDay
	}
	return m
}

func (p Poll) end() time.Time {
	return p.StartedAt.Add(time.Duration(p.Seconds * float64(time.Second)))
}

// plan returns what the settings cost and bring. held says that the source holds waiting requests.
func (t tuning) plan(held bool, m Measured, now time.Time) Plan {
	waiting := t
	if waiting.wait == 0 {
		waiting.wait = usualWait
	}
	p := Plan{
		Schedule: t.schedule.String(), ScheduleSource: t.source, Wait: t.wait.String(), PageSize: t.pageSize,
		Cost: t.cost(held), WithoutWait: t.schedule.cost, WithWait: waiting.cost(true), NextPolls: t.schedule.NextN(now, 5),
	}
	if m.EntriesPerDay == nil {
		return p
	}
	polls, entries := p.Cost.RequestsPerDay, *m.EntriesPerDay
	if p.Cost.Held() && entries > 0 {
		// Each entry ends a wait. If entries come at random, a request waits (1 - exp(-rate * wait)) / rate on average.
		polls = entries / -math.Expm1(-entries*t.wait.Seconds()/day.Seconds())
	}
	requests := max(polls, entries/float64(t.pageSize)) // a page more than a poll has is one more request
	polls, requests = rounded(polls), rounded(requests)
	p.PollsPerDay, p.RequestsPerDay = &polls, &requests
	return p
}
