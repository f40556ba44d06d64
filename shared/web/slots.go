package web

import (
	"net/http"
	"sync"
)

// Slots bound how many requests hold something at once, each client's and all together.
type Slots struct {
	what  string // "event streams"
	bound Bound

	mu     sync.Mutex
	taken  int
	byName map[string]int // by ClientKey
}

// NewSlots returns slots of which none is taken; what they are for stands in the refusals, in the plural.
func NewSlots(what string, bound Bound) *Slots {
	return &Slots{what: what, bound: bound, byName: map[string]int{}}
}

// Take takes a slot and returns a function that releases it, to be called once; or an error that is a 429 if the
// client, by its [ClientKey], has its share already, and a 503 if none is left.
func (s *Slots) Take(client string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName[client] >= s.bound.Client {
		return nil, TryAgain(http.StatusTooManyRequests, 5, "This client has %d %s, which is its limit.", s.bound.Client, s.what)
	}
	if s.taken >= s.bound.All {
		return nil, TryAgain(http.StatusServiceUnavailable, 5, "There are %d %s, which is the limit.", s.bound.All, s.what)
	}
	s.taken++
	s.byName[client]++
	return func() { s.release(client) }, nil
}

func (s *Slots) release(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.byName[client]--; s.byName[client] == 0 {
		delete(s.byName, client)
	}
}

// Taken returns how many slots are taken.
func (s *Slots) Taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}
