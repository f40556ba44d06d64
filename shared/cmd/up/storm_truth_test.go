package main

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A witness notes what the subscribers show of themselves, to be compared with what was true.
type witness struct {
	mu   sync.Mutex
	seen []observation
}

// An observation is what a subscriber showed at a moment.
type observation struct {
	node string
	at   time.Time
	status
}

// watch asks the nodes again and again what they show, until the function that it returns is called.
func (w *witness) watch(nodes map[string]string) (stop func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	for name, addr := range nodes {
		watching.Go(func() {
			for {
				if now, err := statusAt("http://" + addr); err == nil {
					w.mu.Lock()
					w.seen = append(w.seen, observation{name, time.Now(), now})
					w.mu.Unlock()
				}
				select {
				case <-done:
					return
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	return func() {
		close(done)
		watching.Wait()
	}
}

// check compares what was shown of one generation of the copies with the feed and with when its orders were answered: a copy
// that shows an as_of has every order that was answered before it, none shows an as_of that lies in the future, and one whose last
// poll has failed says since when.
func (w *witness) check(t *testing.T, generation int, entries []entry, answered map[uuid.UUID]time.Time) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	positions := map[uuid.UUID]int64{}
	for _, e := range entries {
		if e.Datafeed.Version == 1 {
			positions[e.Datafeed.Entity.ID] = e.Datafeed.Position
		}
	}
	checked, states := 0, map[string]int{}
	for _, o := range w.seen {
		states[o.State]++
		if o.AsOf.After(o.at.Add(time.Second)) { // a second for the rounding of an Age
			t.Errorf("%s showed as_of %v at %v", o.node, o.AsOf, o.at)
		}
		if o.LastError != "" && o.FailingSince.IsZero() {
			t.Errorf("%s showed the error %q at %v, and not since when", o.node, o.LastError, o.at)
		}
		if o.Generation != generation || o.AsOf.IsZero() {
			continue
		}
		text, _, _ := strings.Cut(o.Cursor, "-")
		cursor, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		for id, at := range answered {
			if position := positions[id]; position > cursor && at.Before(o.AsOf) {
				t.Errorf("%s showed cursor %s and as_of %v, but order %s, at position %d, was answered at %v", o.node, o.Cursor, o.AsOf, id, position, at)
			}
		}
		checked++
	}
	if checked == 0 {
		t.Errorf("no subscriber showed anything in generation %d", generation)
	}
	t.Logf("%d observations of generation %d are true; states: %v", checked, generation, fmt.Sprint(states))
}
