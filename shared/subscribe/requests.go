package subscribe

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// A role is what this process does for a service that may have several processes.
type role int

const (
	roleUndecided role = iota // it has just started, or lost its connection to the database
	roleStandby               // another process has the lease
	rolePolling               // it has the lease
)

// requests are the polls that were asked for, and the interrupt of a request that waits at the source.
type requests struct {
	mu        sync.Mutex
	role      role
	wake      chan struct{}           // signals that there is something to do, or that a setting has changed
	asked     []chan error            // one for each caller of pollNow, with room for the outcome
	interrupt context.CancelCauseFunc // ends a waiting request; nil means that none waits
}

// errInterrupted ends a waiting request when there is something else to do.
var errInterrupted = errors.New("interrupted")

// assume stores whether this process polls. A process without the lease refuses the polls that it was asked for.
func (r *requests) assume(role role) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.role = role
	if role != rolePolling {
		why := ErrStandby
		if role == roleUndecided {
			why = context.Canceled
		}
		for _, outcome := range r.asked {
			outcome <- why
		}
		r.asked = nil
	}
}

// polls reports whether this process polls.
func (r *requests) polls() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.role == rolePolling
}

// undecided reports whether this process does not poll, and does not know whether another one does.
func (r *requests) undecided() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.role == roleUndecided
}

// take returns the callers that ask for a poll. The next poll answers them.
func (r *requests) take() (asked []chan error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked, r.asked = r.asked, nil
	return asked
}

// pollNow polls at once and returns how that ended. It returns a failure as a [*PollError], or ErrBusy if another poll
// takes so long that this one has not begun.
func (r *requests) pollNow(ctx context.Context) error {
	outcome := make(chan error, 1)
	r.mu.Lock()
	if r.role == roleStandby {
		r.mu.Unlock()
		return ErrStandby
	}
	r.asked = append(r.asked, outcome)
	r.mu.Unlock()
	r.rouse()
	busy := time.NewTimer(readTimeout)
	defer busy.Stop()
	for {
		select {
		case err := <-outcome:
			if err == nil || errors.Is(err, ErrStandby) || errors.Is(err, context.Canceled) {
				return err
			}
			return &PollError{err}
		case <-busy.C:
			if r.takeBack(outcome) {
				return ErrBusy
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// takeBack withdraws a poll that was asked for. It returns false if the poll has begun.
func (r *requests) takeBack(outcome chan error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.asked, outcome)
	if i >= 0 {
		r.asked = slices.Delete(r.asked, i, i+1)
	}
	return i >= 0
}

// rouse makes run check what there is to do.
func (r *requests) rouse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.interrupt != nil {
		r.interrupt(errInterrupted)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// setInterrupt sets the function by which rouse interrupts a waiting request. A rouse that came just before counts.
func (r *requests) setInterrupt(interrupt context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.interrupt = interrupt
	if interrupt != nil && len(r.wake) > 0 {
		interrupt(errInterrupted)
	}
}
