package mailer

import (
	"sync"
	"time"
)

const maxPause = 5 * time.Minute

// An outage keeps all mails from being sent: the mail server is down, or the set-up is wrong. It counts as no mail's
// failure. The zero outage means there is none.
type outage struct {
	mu    sync.Mutex
	since time.Time
	err   error
	pause time.Duration
	next  time.Time // when the next try is due
}

// A failure is a snapshot of an outage. The zero failure means there is none.
type failure struct {
	Since, Next time.Time
	Text        string
}

func (o *outage) now() failure {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return failure{}
	}
	return failure{o.since.UTC(), o.next.UTC(), inOneLine(o.err)}
}

// waits returns the outage's error if the next try is not due yet, or nil.
func (o *outage) waits() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil && time.Until(o.next) > 0 {
		return o.err
	}
	return nil
}

// again records another failed try, and returns err.
func (o *outage) again(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.since = time.Now()
	}
	o.err, o.pause = err, min(max(2*o.pause, firstDelay), maxPause)
	o.next = time.Now().Add(o.pause)
	return err
}

func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since, o.err, o.pause, o.next = time.Time{}, nil, 0, time.Time{}
}
