package subscribe

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// A role is what this process does for a service that may have several.
type role int

const (
	roleUndecided role = iota // it has just started, or lost its connection to the database
	roleStandby               // another process has the lease
	rolePolling               // it has the lease
)

// requests are the polls that somebody asks for, and what ends a request that waits at the source.
type requests struct {
	mu        sync.Mutex
	role      role
	wake      chan struct{}           // something is to be done, or to be done otherwise
	asked     []chan error            // by whom a poll was asked for, each with room for its outcome
	interrupt context.CancelCauseFunc // of a request that waits; nil means none does
}

// errInterrupted ends a request that waits, when there is something else to do.
var errInterrupted = errors.New("interrupted")

// assume notes which process polls. A process without the lease refuses the polls that it was asked for.
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

// take returns those who ask for a poll: the next one is theirs.
func (r *requests) take() (asked []chan error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked, r.asked = r.asked, nil
	return asked
}

// pollNow polls at once, and returns how that ended, a failure as a [*PollError]; or ErrBusy if another poll takes so
// long that this one has not begun.
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

// takeBack reports whether the poll that was asked for has not begun; then it is not asked for any more.
func (r *requests) takeBack(outcome chan error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.asked, outcome)
	if i >= 0 {
		r.asked = slices.Delete(r.asked, i, i+1)
	}
	return i >= 0
}

// rouse makes run look what is to be done.
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

// setInterrupt tells rouse what ends a request that waits; who came before it counts, too.
func (r *requests) setInterrupt(interrupt context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.interrupt = interrupt
	if interrupt != nil && len(r.wake) > 0 {
		interrupt(errInterrupted)
	}
}
