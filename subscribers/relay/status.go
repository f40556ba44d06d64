package relay

import (
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/eventstream"
)

func (s *stream) connected(c *connection, err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failures++
		s.nextTry = now.Add(eventstream.Backoff(s.failures))
		s.status.down(err, now)
		return
	}
	s.failures = 0
	s.status = status{since: now, conn: c, pending: s.status.pending}
}

func (s *status) down(err error, now time.Time) {
	if s.conn != nil {
		s.since = now
	}
	s.conn, s.blocked, s.err = nil, "", err
}

func (s *stream) lost(err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.down(err, now)
	s.nextTry = now
}

// due reports whether the stream is not connected, and a try to connect is due.
func (s *stream) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.conn == nil && !now.Before(s.nextTry)
}

func (s *stream) setBlocked(c *connection, b amqp.Blocking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c != s.status.conn {
		return
	}
	if s.status.blocked = ""; b.Active {
		s.status.blocked = b.Reason
		if b.Reason == "" {
			s.status.blocked = "no reason given"
		}
	}
}

func (s *stream) isBlocked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.blocked != ""
}

func (s *stream) count(n int, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rate.add(n, now)
	s.sent.Add(float64(n))
}

func (s *stream) pending(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.pending.IsZero() {
		s.status.pending = now
	}
}

// settled records that the page was confirmed, or interrupted by err.
func (s *stream) settled(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.status.pending, s.status.err = time.Time{}, nil
	} else if s.status.err == nil {
		s.status.err = err
	}
}

// trouble returns the current problem, or nil.
func (s *stream) trouble(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch at := s.status; {
	case at.blocked != "":
		return fmt.Errorf("it takes no message: %s", at.blocked)
	case at.conn == nil && at.err != nil:
		return at.err
	case !at.pending.IsZero() && now.Sub(at.pending) > confirmTimeout:
		return errors.New("messages wait to be confirmed")
	}
	return nil
}

// A rate counts the messages confirmed in the last minute, by second.
type rate struct {
	seconds [60]int
	at      int64 // the last second that was counted
}

func (r *rate) add(n int, now time.Time) {
	r.forget(now)
	r.seconds[r.at%60] += n
}

func (r *rate) forget(now time.Time) {
	second := now.Unix()
	for from := max(r.at, second-60); from < second; from++ {
		r.seconds[(from+1)%60] = 0
	}
	r.at = max(r.at, second)
}

func (r *rate) lastMinute(now time.Time) (sum int) {
	r.forget(now)
	for _, n := range r.seconds {
		sum += n
	}
	return sum
}
