package subscribe

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A tuning is the settings by which a feed is polled.
type tuning struct {
	schedule Schedule
	wait     time.Duration // how long a request may wait at the source for something new; 0 means that none waits
	pageSize int
	source   string // of the schedule: "default", "environment" or "runtime"
}

// sameTimes reports whether both make polls due at the same times.
func (t tuning) sameTimes(other tuning) bool {
	return t.schedule.text == other.schedule.text && t.wait == other.wait
}

// A TuneRequest is new settings for the polls of a feed.
type TuneRequest struct {
	Schedule string  `json:"schedule"`
	Wait     *string `json:"wait"`      // nil means the value of Options; the same holds for PageSize
	PageSize *int    `json:"page_size"` // entries
}

// maxScheduleText is the length in bytes of the longest expression.
const maxScheduleText = 200

// takes says which values the fields of a TuneRequest take.
var takes = map[string]string{
	"schedule":  `takes a cron expression such as "*/5 * * * *", or "@every 30s"`,
	"wait":      `takes whole seconds from "0s" to "30s"`,
	"page_size": fmt.Sprintf("takes a whole number from 1 to %d", feed.MaxPageSize),
}

// A TuneError says what is wrong with each field of a [TuneRequest].
type TuneError struct{ Fields []FieldError }

// A FieldError says what is wrong with a field, which it names as in JSON.
type FieldError struct{ Field, Detail string }

func (e *TuneError) Error() string {
	var text []string
	for _, f := range e.Fields {
		text = append(text, f.Field+": "+f.Detail)
	}
	return strings.Join(text, "; ")
}

// BadField returns the error for a field that has a value of another type, or nil if a TuneRequest has no such field.
func BadField(field string) *TuneError {
	if takes[field] == "" {
		return nil
	}
	return &TuneError{[]FieldError{{field, takes[field]}}}
}

// parse returns the settings of the request, or a *TuneError.
func (t *target) parse(w TuneRequest) (to setting, err error) {
	var wrong []FieldError
	bad := func(field, detail string) { wrong = append(wrong, FieldError{field, detail}) }
	var schedule Schedule
	switch text := strings.TrimSpace(w.Schedule); {
	case text == "":
		bad("schedule", takes["schedule"])
	case len(text) > maxScheduleText:
		bad("schedule", fmt.Sprintf("takes %d characters at most", maxScheduleText))
	default:
		var err error
		if schedule, err = ParseSchedule(text, t.key()); err != nil {
			bad("schedule", err.Error())
		}
	}
	if w.Wait != nil {
		d, err := time.ParseDuration(strings.TrimSpace(*w.Wait))
		if err != nil || !ValidWait(d) {
			bad("wait", takes["wait"])
		}
		to.wait = &d
	}
	if w.PageSize != nil && (*w.PageSize < 1 || *w.PageSize > feed.MaxPageSize) {
		bad("page_size", takes["page_size"])
	}
	if wrong != nil {
		return setting{}, &TuneError{wrong}
	}
	text := schedule.String()
	to.schedule, to.pageSize = &text, w.PageSize
	return to, nil
}

func (r *row) tune(ctx context.Context, w TuneRequest, now time.Time) error {
	to, err := r.parse(w)
	if err != nil {
		return err
	}
	var wait *int
	if to.wait != nil {
		seconds := int(*to.wait / time.Second)
		wait = &seconds
	}
	tuned, stale := r.state.retuned(progress{setting: to}, now)
	return r.set(ctx, setTuning, *to.schedule, wait, to.pageSize, tuned, stale)
}

const setTuning = `
	schedule = $3, wait_seconds = $4, page_size = $5, tuned_at = coalesce($6, tuned_at),
	stale_tuned = case when $7 then (
	    select coalesce(last_success_at, '-infinity') from subscription where service = $1 and feed = $2
	) else stale_tuned end`

// retuned returns now if the settings in to change when polls are due, or else nil. It also reports whether the copy is
// stale by the settings in force: new settings do not make it fresh.
func (st *state) retuned(to progress, now time.Time) (tuned *time.Time, stale bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.effective(to).sameTimes(st.tuned) {
		tuned = &now
	}
	return tuned, st.stale(now)
}

func (r *row) untune(ctx context.Context, now time.Time) error {
	tuned, stale := r.state.retuned(progress{}, now)
	return r.set(ctx, setTuning, nil, nil, nil, tuned, stale)
}

// ValidWait reports whether a request may wait so long at a source.
func ValidWait(d time.Duration) bool { return d >= 0 && d <= maxWait && d%time.Second == 0 }
