package subscribe

import (
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A page that is sealed and yet says that the feed ends with it leaves nothing behind.
func TestSealedEnd(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 5)
	c := newCopier(t, s)
	s.setTamper(replaced(`"sealed":false`, `"sealed":true`))
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	if at := c.stored(t); at.headPosition != 5 {
		t.Errorf("the feed is said to end at %d", at.headPosition)
	}
}

// A feed that is said to end as far away as can be said is not near.
func TestFarHead(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	p := &poller{state: &state{target: &target{logger: slog.New(slog.NewTextHandler(&log, nil))}}}
	for _, head := range []int64{math.MaxInt64, 1e12, 1e15} {
		log.Reset()
		p.state.copying(&pace{began: time.Now().Add(-time.Minute)}, &feed.Page{Entries: make([]feed.Entry, 3)}, progress{headPosition: head})
		if !strings.Contains(log.String(), "time_left=") || strings.Contains(log.String(), "time_left=-") {
			t.Error(log.String())
		}
	}
}
