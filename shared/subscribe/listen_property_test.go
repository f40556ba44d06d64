package subscribe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// A studio sends the feed out as the relay does; the wire is what the broker has.
type studio struct {
	*source
	client     *feedclient.Client
	cursor     feed.Cursor
	generation int64
	wire       []Message
}

// page returns the next one, and moves behind it if it goes out.
func (s *studio) page(t rapid.TB, limit int, out func(from feed.Cursor, page *feed.Page) (moves bool)) {
	t.Helper()
	answer, err := s.client.Get(context.Background(), feedclient.Request{URL: s.feedURL(), After: s.cursor, Limit: limit})
	switch {
	case errors.Is(err, feedclient.ErrDiverged):
		s.cursor, s.generation = feed.Cursor{}, s.generation+1
	case err != nil:
		t.Fatal(err)
	case out(s.cursor, answer.Page):
		s.cursor = answer.Page.Cursor
	}
}

// Whatever the stream says, repeats, leaves out and mixes of several histories, and wherever polls come in between: the
// copy is, after each step, what the source had at its cursor, and in the end what the source has.
func TestStreamProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	s := newSource(t)
	pool := pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
	heard := 0
	rapid.Check(t, func(rt *rapid.T) {
		s.begin(rt)
		exec(rt, pool, `truncate thing, subscription cascade`)
		radio := &studio{source: s, client: feedclient.New(""), generation: 1}
		defer radio.client.Close()
		var c *copier
		var delivered []Message
		restart := func() {
			c = s.copier(rt, pool, 4)
			c.stream = c.newStream(nil)
			c.stream.adrift, c.stream.arrived = true, make(chan Message, 1000)
			if _, err := c.row.load(context.Background()); err != nil {
				rt.Fatal(err)
			}
		}
		restart()
		defer func() { c.fetcher.client.Close() }()
		had := map[feed.Cursor]map[uuid.UUID]thing{{}: {}} // by the source, at any time
		clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		put := func(n int, gone bool) {
			e := s.version(n)
			clock = clock.Add(time.Microsecond)
			if e.Updated = clock; !gone {
				e.Payload = fmt.Appendf(nil, `{"id":"%s","version":%d,"name":"thing %d at %s"}`, e.ID, e.Version, n, clock)
			}
			s.publish(rt, e)
			had[s.head(rt).Cursor()] = s.things(rt, int64(len(s.history)))
		}
		poll := func() {
			err := c.poll(context.Background())
			c.state.after(err, time.Now())
			c.stream.pollEnded(err, time.Now())
		}
		deliver := func(t *rapid.T, n int) {
			before := c.state.current().cursor
			for _, m := range radio.wire[:n] {
				c.stream.arrived <- m
			}
			delivered, radio.wire = append(delivered, radio.wire[:n]...), radio.wire[n:]
			c.stream.applyArrived(context.Background())
			if c.state.current().cursor != before {
				heard++
			}
			if !c.stream.askAt.IsZero() && rapid.IntRange(0, 3).Draw(t, "the feed is asked") > 0 {
				poll()
			}
		}
		relay := func(t *rapid.T, limit, cutOff int, killed bool) {
			radio.page(t, limit, func(from feed.Cursor, page *feed.Page) bool {
				all := Outside.Messages("things", radio.generation, from, page)
				for _, p := range all[:len(all)-min(len(all), cutOff)] {
					radio.wire = append(radio.wire, Outside.Parse("things", amqp.Delivery{Headers: p.Headers, Body: p.Body}))
				}
				return !killed
			})
		}
		inTime := func(t *rapid.T) {
			for range rapid.IntRange(1, 3).Draw(t, "entries") {
				put(rapid.IntRange(1, 6).Draw(t, "n"), false)
			}
			for range 9 {
				relay(t, 3, 0, false)
			}
			deliver(t, len(radio.wire))
		}
		poll()
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				for range rapid.IntRange(1, 3).Draw(t, "entries") {
					put(rapid.IntRange(1, 6).Draw(t, "n"), false)
				}
			},
			"remove": func(t *rapid.T) {
				if n := rapid.IntRange(1, 6).Draw(t, "n"); s.versions[numbered(n)] > 0 {
					put(n, true)
				}
			},
			"restore": func(t *rapid.T) {
				if n := len(s.history); n > 1 && rapid.IntRange(0, 3).Draw(t, "often") == 0 {
					s.restored(t, n-min(n-1, rapid.IntRange(1, 4).Draw(t, "lost")))
					s.open(t)
				}
			},
			"relay": func(t *rapid.T) {
				relay(t, rapid.IntRange(1, 5).Draw(t, "limit"), max(0, rapid.IntRange(-4, 2).Draw(t, "cut off")), rapid.IntRange(0, 4).Draw(t, "killed") == 0)
			},
			"in time": inTime, "in time too": inTime,
			"lose": func(t *rapid.T) {
				if n := len(radio.wire); n > 0 && rapid.IntRange(0, 3).Draw(t, "often") == 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "from")
					radio.wire = slices.Delete(radio.wire, i, min(n, i+rapid.IntRange(1, 2).Draw(t, "messages")))
				}
			},
			"garble": func(t *rapid.T) {
				if rapid.IntRange(0, 5).Draw(t, "often") == 0 {
					radio.wire = append(radio.wire, Outside.Parse("things", amqp.Delivery{Body: []byte(`{"external_id":1}`)}))
				}
			},
			"deliver": func(t *rapid.T) { deliver(t, rapid.IntRange(0, len(radio.wire)).Draw(t, "messages")) },
			"deliver again": func(t *rapid.T) {
				n := min(len(delivered), rapid.IntRange(1, 5).Draw(t, "messages"))
				radio.wire = append(slices.Clone(delivered[len(delivered)-n:]), radio.wire...)
			},
			"poll": func(t *rapid.T) {
				if rapid.IntRange(0, 2).Draw(t, "often") == 0 {
					poll()
				}
			},
			"restart": func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "often") == 0 {
					c.fetcher.client.Close()
					restart()
					poll()
				}
			},
			"": func(t *rapid.T) {
				if x := c.stream; x.askAt.IsZero() != (!x.adrift && len(x.pending) == 0) {
					t.Fatalf("adrift %t, %d pending, the feed is to be asked at %s", x.adrift, len(x.pending), x.askAt)
				}
				at := c.stored(t)
				if got, want := c.things(t), had[at.cursor]; want == nil || !maps.Equal(got, want) {
					t.Fatalf("the copy at %s is %v, the source had %v", at.cursor, got, want)
				}
			},
		})
		for range 3 {
			poll()
		}
		c.wantUpToDate(rt, s)
	})
	if heard < 100 {
		t.Errorf("only %d times the stream moved the copy", heard)
	}
	t.Logf("the stream moved the copy %d times", heard)
}
