package webserver

import (
	"container/list"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

// A share bounds what clients hold of something, each client and all together. Beyond that, what was held for the
// longest is lost: of the client that has too much, or of the one that has the most.
type share struct {
	bound web.Bound
	after time.Duration // for which nothing is lost

	mu       sync.Mutex
	all      int
	byClient map[string]*holdings // by ClientKey
}

// holdings are those of one client.
type holdings struct {
	n    int
	list list.List // of *holding, the first one in front
}

type holding struct {
	n     int
	since time.Time
	gone  bool // from its share

	mu   sync.Mutex
	lose func() // nil once it is released
}

func newShare(bound web.Bound, after time.Duration) *share {
	return &share{bound: bound, after: after, byClient: map[string]*holdings{}}
}

// hold lets the client hold n more, until release is called, or lose if that has to be before. Both may be called at
// the same time as others, release any number of times; lose is not called after release has returned.
func (s *share) hold(client string, n int, lose func()) (release func()) {
	now := time.Now()
	h := &holding{n: n, since: now, lose: lose}
	s.mu.Lock()
	mine := s.byClient[client]
	if mine == nil {
		mine = &holdings{}
		s.byClient[client] = mine
	}
	e := mine.list.PushBack(h)
	mine.n += n
	s.all += n
	var lost []*holding
	for first := s.excess(client, now); first != nil; first = s.excess(client, now) {
		lost = append(lost, first)
	}
	s.mu.Unlock()
	for _, h := range lost {
		h.mu.Lock()
		if h.lose != nil {
			h.lose()
		}
		h.mu.Unlock()
	}
	return func() {
		s.mu.Lock()
		s.remove(client, e)
		s.mu.Unlock()
		h.mu.Lock()
		h.lose = nil
		h.mu.Unlock()
	}
}

// excess removes and returns what is to be lost after the client got more, or nil. It wants s.mu locked.
func (s *share) excess(client string, now time.Time) *holding {
	if mine := s.byClient[client]; mine != nil && mine.n > s.bound.Client {
		if now.Sub(mine.first().since) < s.after {
			return nil
		}
		return s.remove(client, mine.list.Front())
	}
	if s.all <= s.bound.All {
		return nil
	}
	var from *holdings
	for name, of := range s.byClient {
		since := of.first().since
		if now.Sub(since) >= s.after && (from == nil || of.n > from.n || of.n == from.n && since.Before(from.first().since)) {
			from, client = of, name
		}
	}
	if from == nil {
		return nil
	}
	return s.remove(client, from.list.Front())
}

func (h *holdings) first() *holding { return h.list.Front().Value.(*holding) }

// remove removes what the client holds, unless that is done. It wants s.mu locked.
func (s *share) remove(client string, e *list.Element) *holding {
	h := e.Value.(*holding)
	if h.gone {
		return h
	}
	h.gone = true
	of := s.byClient[client]
	of.list.Remove(e)
	s.all -= h.n
	if of.n -= h.n; of.list.Len() == 0 {
		delete(s.byClient, client)
	}
	return h
}
