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

func (p *poller) tuning() tuning {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tuned
}

// take takes over what the database says.
func (p *poller) take(at progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if was := &p.copied; p.failures > 0 && at.lastSuccess.Equal(was.lastSuccess) { // it may not be stored
		at.failingSince, at.stale = was.failingSince, at.stale || was.stale
	}
	p.copied, p.rejecting = at, at.rejected > 0
	p.retune()
}

// adopt takes over what was set meanwhile, and in a process that does not poll how far the one is that does. before is the last success
// before at was read. If at has an older one, the database was taken back, as by the restore of a dump: a poll is due at once.
func (p *poller) adopt(at progress, before time.Time) {
	p.mu.Lock()
	back := !p.standby && at.lastSuccess.Before(before)
	changed := back || at.paused != p.copied.paused || at.walking && !p.copied.walking
	if p.standby || back {
		p.copied = at
	} else {
		p.copied.set(at)
	}
	changed = p.retune() || changed
	if !p.standby && p.setBack(time.Now()) { // the next request is not to wait, nor is one that does
		p.succeeded, changed = false, true
	}
	if back {
		p.succeeded, p.rejecting = false, at.rejected > 0
	}
	if back || at.walking && changed && !p.standby {
		p.nextPoll = time.Time{}
	}
	p.mu.Unlock()
	if changed {
		p.rouse()
	}
}

// retune wants p.mu locked. It tells whether anything is other than before.
func (p *poller) retune() bool {
	was, now := p.tuned, p.effective(p.copied)
	p.tuned = now
	if was.sameTimes(now) && was.pageSize == now.pageSize {
		return false
	}
	p.tried, p.waits, p.cuts = false, false, cuts{}
	switch {
	case p.lastError != nil || p.nextPoll.IsZero():
	case now.wait > 0:
		p.nextPoll = time.Time{}
	default:
		p.nextPoll = now.schedule.Next(time.Now())
	}
	return true
}

// effective returns the tuning that at makes of what the environment says. p.mu is locked.
func (p *poller) effective(at progress) tuning {
	now := p.given
	if at.schedule != nil {
		schedule, err := p.tuned.schedule, error(nil)
		if schedule.text != *at.schedule {
			schedule, err = ParseSchedule(*at.schedule, p.key())
		}
		if err == nil {
			now.schedule, now.source = schedule, "runtime"
		}
	}
	if at.wait != nil {
		now.wait = *at.wait
	}
	if at.pageSize != nil {
		now.pageSize = *at.pageSize
	}
	return now
}

// sameTimes reports whether polls are due at the same times by both.
func (t tuning) sameTimes(other tuning) bool {
	return t.schedule.text == other.schedule.text && t.wait == other.wait
}

// key tells a service's schedule of a feed from those of others: see ParseSchedule.
func (p *poller) key() string { return p.service + "/" + p.Name }

// set changes a setting in the database, and takes it over at once; the process that polls, if it is another, does within a second.
// Settings have rows of their own, which no transaction holds that applies entries.
func (p *poller) set(ctx context.Context, assignments string, args ...any) error {
	_, err := p.pool.Exec(ctx, `update subscription_setting set `+assignments+` where service = $1 and feed = $2`,
		append([]any{p.service, p.Name}, args...)...)
	if err != nil {
		return fmt.Errorf("change the subscription to %s: %w", p.Name, err)
	}
	return p.refresh(ctx)
}

// refresh takes over at once what was changed in the database.
func (p *poller) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	p.reading.Lock()
	defer p.reading.Unlock()
	before := p.current().lastSuccess
	rows, err := p.pool.Query(ctx, selectProgress+` and feed = $2`, p.service, p.Name)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		_, at, err := scanProgress(rows)
		if err != nil {
			return err
		}
		p.adopt(at, before)
	}
	return rows.Err()
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
func (p *poller) tune(ctx context.Context, w wish, now time.Time) error {
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
		if schedule, err = ParseSchedule(text, p.key()); err != nil {
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
	to := progress{schedule: &text, pageSize: w.PageSize}
	if wait != nil {
		d := time.Duration(*wait) * time.Second
		to.wait = &d
	}
	tuned, stale := p.retuned(to, now)
	return p.set(ctx, setTuning, text, wait, w.PageSize, tuned, stale)
}

const setTuning = `
	schedule = $3, wait_seconds = $4, page_size = $5, tuned_at = coalesce($6, tuned_at),
	stale_tuned = case when $7 then (
	    select coalesce(last_success_at, '-infinity') from subscription where service = $1 and feed = $2
	) else stale_tuned end`

// retuned returns now if a tuning to what is set in to changes when polls are due, else nil, and whether the copy is stale by
// the tuning in force. If it is, no other makes it fresh.
func (p *poller) retuned(to progress, now time.Time) (tuned *time.Time, stale bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.effective(to).sameTimes(p.tuned) {
		tuned = &now
	}
	return tuned, p.stale(now)
}

// untune makes the environment's settings, or the defaults, the rule again.
func (p *poller) untune(ctx context.Context, now time.Time) error {
	tuned, stale := p.retuned(progress{}, now)
	return p.set(ctx, setTuning, nil, nil, nil, tuned, stale)
}

func untuned(wrong ...web.FieldError) *web.Problem {
	problem := web.Errorf(http.StatusUnprocessableEntity, "Nothing was changed.")
	problem.Errors = wrong
	return problem
}

func validWait(d time.Duration) bool { return d >= 0 && d <= maxWait && d%time.Second == 0 }
