package subscribe

import (
	"context"
	"fmt"
	"time"
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
	p.copied = at
	p.retune()
}

// adopt takes over what was set meanwhile, and in a process that does not poll how far the one is that does.
func (p *poller) adopt(at progress) {
	p.mu.Lock()
	changed := at.paused != p.copied.paused || at.walking && !p.copied.walking
	if p.standby {
		p.copied = at
	} else {
		p.copied.schedule, p.copied.wait, p.copied.pageSize, p.copied.paused = at.schedule, at.wait, at.pageSize, at.paused
		p.copied.rejected = at.rejected
	}
	changed = p.retune() || changed
	if at.walking && changed && !p.standby {
		p.nextPoll = time.Time{}
	}
	p.mu.Unlock()
	if changed {
		p.rouse()
	}
}

// retune wants p.mu locked. It tells whether anything is other than before.
func (p *poller) retune() bool {
	now, at := p.given, p.copied
	if at.schedule != nil {
		schedule, err := ParseSchedule(*at.schedule, p.key())
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
	was := p.tuned
	p.tuned = now
	if was.schedule.text == now.schedule.text && was.wait == now.wait && was.pageSize == now.pageSize {
		return false
	}
	p.tried, p.waits = false, false
	if p.lastError == nil && !p.nextPoll.IsZero() {
		p.nextPoll = now.schedule.Next(time.Now())
		if now.wait > 0 {
			p.nextPoll = time.Now()
		}
	}
	return true
}

// key tells a service's schedule of a feed from those of others: see ParseSchedule.
func (p *poller) key() string { return p.service + "/" + p.Name }

// set changes a setting in the database, and takes it over at once; the process that polls, if it is another, does within a second.
func (p *poller) set(ctx context.Context, assignments string, args ...any) error {
	_, err := p.pool.Exec(ctx, `update subscription set `+assignments+` where feed = $1`, append([]any{p.Name}, args...)...)
	if err != nil {
		return fmt.Errorf("change the subscription to %s: %w", p.Name, err)
	}
	rows, err := p.pool.Query(ctx, selectProgress+` where feed = $1`, p.Name)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		_, at, err := scanProgress(rows)
		if err != nil {
			return err
		}
		p.adopt(at)
	}
	return rows.Err()
}
