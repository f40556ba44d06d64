package mailer

import (
	"sync"
	"time"
)

const maxPause = 5 * time.Minute

// An outage is what keeps all mails from being sent: the mail server is down, or the set-up is wrong. It is booked to no mail. The
// zero outage is none.
type outage struct {
	mu    sync.Mutex
	since time.Time
	err   error
	pause time.Duration
	next  time.Time // when it is tried again
}

// A failure is an outage as it is at one moment; the zero one is none.
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

// waits returns the error if it is not yet time to try again.
func (o *outage) waits() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil && time.Until(o.next) > 0 {
		return o.err
	}
	return nil
}

// again notes that it was tried in vain, and returns err.
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
