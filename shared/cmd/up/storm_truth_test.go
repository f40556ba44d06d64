package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A witness notes what the subscribers show of themselves, to be compared with what was true.
type witness struct {
	mu       sync.Mutex
	seen     []observation
	compared int      // observations with which page and metrics were compared
	wrong    []string // what these said otherwise
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
					wrong := others("http://"+addr, now)
					w.mu.Lock()
					w.seen = append(w.seen, observation{name, time.Now(), now})
					if w.wrong = append(w.wrong, wrong...); wrong != nil {
						w.compared++
					}
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

// badges are a subscriber's state, and since when its polls fail, as its page shows them.
var badges = regexp.MustCompile(`(?s)id="feed-orders">\s*<summary>.*?<span class="badge \w+">(\w+)</span>(.*?)</summary>`)

// others returns in what the page and the metrics of a subscriber differ from the status that it has just shown; nil
// means that it has changed meanwhile, or could not be asked.
func others(url string, before status) (wrong []string) {
	_, page, err := get(url+"/subscriptions", "text/html")
	if err != nil {
		return nil
	}
	_, metrics, err := get(url+"/metrics", "*/*")
	if err != nil {
		return nil
	}
	after, err := statusAt(url)
	if err != nil || before.State != after.State || before.Generation != after.Generation || !before.FailingSince.Equal(after.FailingSince) ||
		!before.LastSuccessAt.Equal(after.LastSuccessAt) {
		return nil
	}
	wrong = []string{}
	failing := !before.FailingSince.IsZero()
	if says := badges.FindSubmatch(page); says == nil || string(says[1]) != before.State || bytes.Contains(says[2], []byte("Failing since")) != failing {
		wrong = append(wrong, fmt.Sprintf("the page of %s says %q, with %+v", url, says, before))
	}
	for name, want := range map[string]bool{"subscription_failing_seconds": failing, "subscription_stale": before.State != "fresh"} {
		found := regexp.MustCompile(name + `\{feed="orders"\} (\S+)`).FindSubmatch(metrics)
		if found == nil || (string(found[1]) != "0") != want {
			wrong = append(wrong, fmt.Sprintf("%s of %s is %s, with %+v", name, url, found, before))
		}
	}
	return wrong
}

// wrongState says in what the state that was shown cannot be true; empty: in nothing. A schedule other than "@every"
// may leave a copy fresh for days.
func (o observation) wrongState() string {
	age := o.at.Sub(o.LastSuccessAt)
	every, isEvery := strings.CutPrefix(o.Schedule, "@every ")
	period, err := time.ParseDuration(every)
	wait, err2 := time.ParseDuration(o.Wait)
	switch {
	case isEvery && (err != nil || err2 != nil):
		return "a schedule that nobody set"
	case o.State == "fresh" && o.LastSuccessAt.IsZero():
		return "fresh without a poll that succeeded"
	case o.State == "fresh" && isEvery && age > 2*period+wait+10*time.Second: // beside the polls' own time
		return "fresh too long after the last poll that succeeded"
	case o.State == "stale" && !o.LastSuccessAt.IsZero() && age < time.Second/2: // the shortest period is a second
		return "stale just after a poll succeeded"
	case o.State == "resyncing" && o.ResyncSince.IsZero():
		return "resyncing since never"
	case o.State == "diverged" && o.LastError == "":
		return "diverged without an error"
	case o.State == "paused":
		return "paused by nobody"
	}
	return ""
}

// check compares what was shown of one generation of the copies with the feed and with when its orders were answered: a
// copy that shows an as_of has every order that was answered before it, none shows an as_of that lies in the future,
// and one whose last poll has failed says since when.
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
		if wrong := o.wrongState(); wrong != "" {
			t.Errorf("%s showed at %v: %s: %+v", o.node, o.at, wrong, o.status)
		}
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
	for _, wrong := range w.wrong {
		t.Error(wrong)
	}
	if w.compared == 0 {
		t.Error("page and metrics were compared with nothing")
	}
	t.Logf("%d observations of generation %d are true; states: %v", checked, generation, fmt.Sprint(states))
}
