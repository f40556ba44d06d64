package subscribe

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// The clock is set back: what was stored by it as it was before does not count.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	noon := at(t, "2026-11-28 12:00:00")
	eleven := noon.Add(-time.Hour)

	t.Run("a poll is due", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		for _, schedule := range []string{"@every 5s", "@hourly", "@weekly"} {
			c.mustTune(t, schedule, noon.Add(-time.Minute))
			c.succeed(t, noon)
			if next := c.state.due(eleven, time.Time{}); !next.IsZero() {
				t.Errorf("%s: it is due at %v", schedule, next)
			}
			c.succeed(t, eleven)
			next := c.state.due(eleven, time.Time{})
			if want := c.state.tuning().schedule.Next(eleven); !next.Equal(want) {
				t.Errorf("%s: after a success it is due at %v, not %v", schedule, next, want)
			}
			if s := c.status(eleven); s.State != Fresh || !s.AsOf.Equal(eleven) {
				t.Errorf("%s: it is %s as of %v", schedule, s.State, s.AsOf)
			}
		}
	})

	t.Run("a schedule's next fire as well", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		c.succeed(t, eleven.Add(time.Second))
		c.state.nextPoll = noon
		if next := c.state.due(eleven.Add(2*time.Second), time.Time{}); next.Sub(eleven) > 8*time.Second {
			t.Errorf("it is due in %v", next.Sub(eleven))
		}
	})

	t.Run("nothing is known of the copy's age", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		c.mustTune(t, "@hourly", noon)
		c.succeed(t, noon)
		c.fail(noon.Add(time.Second))
		exec(t, c.pool, `update subscription set resync_since = $1, resynced_at = $1, resync_cursor = '0'`, noon)
		c = offline(t, c.pool, 0) // after a restart
		s := c.status(eleven)
		if s.State != Resyncing || s.AsOf != nil || s.LastSuccessAt != nil || s.FailingSince.After(eleven) || s.ResyncSince.After(eleven) || s.ResyncedAt.After(eleven) {
			t.Errorf("it shows %+v", s)
		}
		exec(t, c.pool, `update subscription set resync_cursor = null`)
		c.stored(t)
		if s := c.status(eleven); s.State != Stale {
			t.Errorf("it is %s", s.State)
		}
		c.fail(eleven)
		if s := c.status(eleven.Add(time.Minute)); !s.FailingSince.Equal(eleven) {
			t.Errorf("the next failure leaves it failing since %v", s.FailingSince)
		}
	})

	t.Run("pages and health say so", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		c.succeed(t, time.Now().Add(time.Hour))
		server := c.site(t, routeThings)
		if resp, text := get(t, server.URL+"/readyz", "*/*"); resp.StatusCode != http.StatusOK {
			t.Errorf("/readyz: %s: %s", resp.Status, text)
		}
		if resp, _ := get(t, server.URL+"/api/things", "*/*"); resp.Header.Get("Datafeed-Copy") != "things; state=stale" {
			t.Errorf("Datafeed-Copy: %s", resp.Header.Get("Datafeed-Copy"))
		}
		for path, says := range map[string]string{"/": "things: stale, of unknown age.", "/subscriptions": "of unknown age: the clock was set back since"} {
			if _, text := get(t, server.URL+path, "text/html"); !strings.Contains(text, says) {
				t.Errorf("%s does not say %q: %s", path, says, text)
			}
		}
	})

	t.Run("clocks of replicas differ a little", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		c.succeed(t, noon)
		now := noon.Add(-2 * time.Second)
		if s := c.status(now); s.State != Fresh || s.AsOf.After(now) || s.LastSuccessAt.After(now) {
			t.Errorf("it shows %+v", s)
		}
	})

	t.Run("under a request that waits", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		c := waiting(t, s)
		eventually(t, "a request waits", c.holds)
		c.poller.state.mu.Lock()
		c.state.copied.lastSuccess, c.state.copied.asOf = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
		c.poller.state.mu.Unlock()
		eventually(t, "it polls again", func() bool {
			if err := c.row.refresh(t.Context()); err != nil { // as the lease's look does
				t.Fatal(err)
			}
			shown := c.shows()
			return shown.State == Fresh && shown.AsOf != nil
		})
		eventually(t, "a request waits again", c.holds)
	})
}

// The clock is set forward by hours, and back.
func TestClockSetForwardAndBack(t *testing.T) {
	t.Parallel()
	noon := at(t, "2026-11-28 12:00:00")
	c := offline(t, healthDatabase(t), 0)
	c.succeed(t, noon)
	if next := c.state.due(noon.Add(3*time.Hour), time.Time{}); !next.IsZero() {
		t.Errorf("three hours later the next poll is at %v", next)
	}
	c.succeed(t, noon.Add(3*time.Hour))
	now := noon.Add(time.Minute)
	if next := c.state.due(now, time.Time{}); !next.IsZero() {
		t.Errorf("set back the next poll is at %v", next)
	}
	if s := c.status(now); s.State != Stale || s.AsOf != nil {
		t.Errorf("until then it is %s as of %v", s.State, s.AsOf)
	}
	c.succeed(t, now)
	if s := c.status(now); s.State != Fresh || !s.AsOf.Equal(now) {
		t.Errorf("after a poll it is %s as of %v", s.State, s.AsOf)
	}
}

// Whatever was stored, no time that is shown lies in the future, and no state is told from one that does.
func TestNoTimeInTheFuture(t *testing.T) {
	t.Parallel()
	c := offline(t, healthDatabase(t), 0)
	rapid.Check(t, func(t *rapid.T) {
		now := at(t, "2026-11-28 12:00:00")
		when := func(name string) time.Time {
			return now.Add(time.Duration(rapid.Int64Range(-int64(day), int64(day)).Draw(t, name))).Truncate(time.Millisecond)
		}
		c.state.copied.lastSuccess, c.state.copied.asOf, c.state.copied.failingSince = when("last success"), when("as of"), when("failing since")
		c.state.copied.tunedAt, c.state.copied.resync.since, c.state.copied.resyncedAt = when("tuned"), when("walk since"), when("resynced")
		c.state.copied.resync.underWay = rapid.Bool().Draw(t, "walking")
		s := c.status(now)
		for _, shown := range []*time.Time{s.AsOf, s.LastSuccessAt, s.FailingSince, s.ResyncSince, s.ResyncedAt} {
			if shown != nil && shown.After(now) {
				t.Fatalf("it shows %v at %v: %+v", shown, now, s)
			}
		}
		if s.State == Fresh && s.LastSuccessAt == nil {
			t.Fatalf("it is fresh without a success: %+v", s)
		}
	})
}

// What a source or a cache claims of its clock moves nothing into the future.
func TestLyingClockOfTheSource(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	c := newCopier(t, s)
	for name, header := range map[string][2]string{
		"a Date to come":           {"Date", "Fri, 31 Dec 2099 23:59:59 GMT"},
		"a Date long ago":          {"Date", "Thu, 01 Jan 1970 00:00:00 GMT"},
		"a negative Age":           {"Age", "-3600"},
		"an Age that is no number": {"Age", "soon"},
	} {
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			w.Header().Set(header[0], header[1])
			honest.ServeHTTP(w, r)
		})
		before := time.Now().Truncate(time.Millisecond)
		c.mustPoll(t)
		if shown := c.shows(); shown.AsOf.After(time.Now()) || shown.AsOf.Before(before) {
			t.Errorf("%s: asked at %v it is as of %v", name, before, shown.AsOf)
		}
	}
	// A wait during which the clock is set back.
	now := time.Now()
	f := fetched{Request: feedclient.Request{Wait: 25 * time.Second}, Answer: &feedclient.Answer{AsOf: now.Add(time.Hour), Waits: 25 * time.Second}}
	if to := c.fetcher.behind(c.stored(t), f, 25*time.Second, now); to.asOf.After(now) {
		t.Errorf("at %v it is as of %v", now, to.asOf)
	}
}

// A time that no clock shows, in whatever column of the subscription, stops no poll, no page and no start.
func TestStoredTimesThatNoClockShows(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many polls")
	s := newSource(t)
	s.put(t, 1, 5)
	pool := healthDatabase(t)
	env := map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL()}
	url, stop, log := start(t, env)
	has(t, pool, 5)
	things := 5
	for _, column := range []string{
		"subscription.as_of", "subscription.last_success_at", "subscription.failing_since", "subscription.resynced_at", "subscription.resync_since",
		"subscription_setting.tuned_at", "subscription_setting.stale_tuned",
	} {
		for _, value := range []string{"infinity", "-infinity", "20000-01-01", "4000-01-01 BC"} {
			table, column, _ := strings.Cut(column, ".")
			exec(t, pool, `update `+table+` set `+column+` = '`+value+`'`)
			s.put(t, things+1, things+1)
			things++
			has(t, pool, things)
			eventually(t, column+" of "+value+": it is fresh", func() bool {
				if got := status(t, url+"/subscriptions"); got != http.StatusOK {
					t.Errorf("%s of %s: /subscriptions answers %d", column, value, got)
				}
				shown := subscription(t, url)
				return shown.State == Fresh && shown.FailingSince == nil && shown.AsOf != nil
			})
		}
	}
	exec(t, pool, `update subscription set as_of = 'infinity', last_success_at = 'infinity', failing_since = '-infinity', resynced_at = 'infinity'`)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); strings.Contains(text, "not polling") {
		t.Errorf("it gave up polling:\n%s", text)
	}
	exec(t, pool, `update subscription set as_of = 'infinity', last_success_at = 'infinity', failing_since = '-infinity', resynced_at = 'infinity'`)
	url, _, _ = start(t, env)
	eventually(t, "after a restart it is fresh", func() bool { return subscription(t, url).State == Fresh })
}
