package subscribe

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A tuning says when and how to poll.
type tuning struct {
	schedule Schedule
	wait     time.Duration // how long a request may wait at the source for something new; 0: none does
	pageSize int
	source   string // of the schedule: "default", "environment" or "runtime"
}

// sameTimes reports whether polls are due at the same times by both.
func (t tuning) sameTimes(other tuning) bool {
	return t.schedule.text == other.schedule.text && t.wait == other.wait
}

// A wish is how somebody wants a feed polled from now on.
type wish struct {
	Schedule string  `json:"schedule"`
	Wait     *string `json:"wait"`      // nil, as PageSize: as the environment says
	PageSize *int    `json:"page_size"` // entries
}

// maxScheduleText is how long an expression may be, in bytes.
const maxScheduleText = 200

// What the fields of a wish take.
var takes = map[string]string{
	"schedule":  `takes a cron expression such as "*/5 * * * *", or "@every 30s"`,
	"wait":      `takes whole seconds from "0s" to "30s"`,
	"page_size": fmt.Sprintf("takes a whole number from 1 to %d", feed.MaxPageSize),
}

// tune makes the wish the rule, in force at once and after a restart. A bad one changes nothing: it is a problem (422) that says
// of each field what is wrong.
func (r *row) tune(ctx context.Context, w wish, now time.Time) error {
	var wrong []web.FieldError
	bad := func(field, detail string) { wrong = append(wrong, web.FieldError{Field: field, Detail: detail}) }
	var schedule Schedule
	switch text := strings.TrimSpace(w.Schedule); {
	case text == "":
		bad("schedule", takes["schedule"])
	case len(text) > maxScheduleText:
		bad("schedule", fmt.Sprintf("takes %d characters at most", maxScheduleText))
	default:
		var err error
		if schedule, err = ParseSchedule(text, r.key()); err != nil {
			bad("schedule", err.Error())
		}
	}
	var wait *int
	if w.Wait != nil {
		d, err := time.ParseDuration(strings.TrimSpace(*w.Wait))
		if err != nil || !validWait(d) {
			bad("wait", takes["wait"])
		}
		seconds := int(d / time.Second)
		wait = &seconds
	}
	if w.PageSize != nil && (*w.PageSize < 1 || *w.PageSize > feed.MaxPageSize) {
		bad("page_size", takes["page_size"])
	}
	if wrong != nil {
		return untuned(wrong...)
	}
	text := schedule.String()
	to := progress{setting: setting{schedule: &text, pageSize: w.PageSize}}
	if wait != nil {
		d := time.Duration(*wait) * time.Second
		to.wait = &d
	}
	tuned, stale := r.state.retuned(to, now)
	return r.set(ctx, setTuning, text, wait, w.PageSize, tuned, stale)
}

const setTuning = `
	schedule = $3, wait_seconds = $4, page_size = $5, tuned_at = coalesce($6, tuned_at),
	stale_tuned = case when $7 then (
	    select coalesce(last_success_at, '-infinity') from subscription where service = $1 and feed = $2
	) else stale_tuned end`

// retuned returns now if a tuning to what is set in to changes when polls are due, else nil, and whether the copy is stale by
// the tuning in force. If it is, no other makes it fresh.
func (st *state) retuned(to progress, now time.Time) (tuned *time.Time, stale bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.effective(to).sameTimes(st.tuned) {
		tuned = &now
	}
	return tuned, st.stale(now)
}

// untune makes the environment's settings, or the defaults, the rule again.
func (r *row) untune(ctx context.Context, now time.Time) error {
	tuned, stale := r.state.retuned(progress{}, now)
	return r.set(ctx, setTuning, nil, nil, nil, tuned, stale)
}

func untuned(wrong ...web.FieldError) *web.Problem {
	problem := web.Errorf(http.StatusUnprocessableEntity, "Nothing was changed.")
	problem.Errors = wrong
	return problem
}

func validWait(d time.Duration) bool { return d >= 0 && d <= maxWait && d%time.Second == 0 }
