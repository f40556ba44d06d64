package subscribe

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// succeed stores what a poll does that succeeds at now, without a source.
func (c *copier) succeed(t rapid.TB, now time.Time) {
	t.Helper()
	from, err := c.row.begin(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	to := c.fetcher.behind(from, fetched{Answer: &feedclient.Answer{AsOf: now.UTC().Truncate(time.Millisecond)}}, 0, now)
	if err := c.applier.commit(context.Background(), &turn{from: from, to: to}); err != nil {
		t.Fatal(err)
	}
	c.state.after(nil, now)
}

// fail stores what a poll does that fails at now.
func (c *copier) fail(now time.Time) {
	_, _ = c.row.begin(context.Background(), false)
	c.state.after(&feedclient.StatusError{Status: 503}, now)
	c.row.storeFailing(context.Background())
}

func (c *copier) mustTune(t rapid.TB, schedule string, now time.Time) {
	t.Helper()
	err := c.row.untune(context.Background(), now)
	if schedule != "" {
		err = c.row.tune(context.Background(), TuneRequest{Schedule: schedule}, now)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// offline makes a copier whose source is never asked.
func offline(t rapid.TB, pool *pgxpool.Pool, wait time.Duration) *copier {
	t.Helper()
	c := new(copier)
	var err error
	c.poller, err = newPoller(pool, Options{Name: "test", PageSize: 10, Wait: wait, Logger: discard},
		Feed{Name: "things", URL: "http://source.example/feeds/things", Schedule: "@every 5s", Table: "thing", Apply: copyThings})
	if err == nil {
		err = c.create(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.row.load(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.state.assume(rolePolling)
	return c
}

func healthDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
}

// A model knows what happened to a copy, and by that what it is to show.
type model struct {
	schedule                    string // in force
	lastSuccess, failing, tuned time.Time
	stale, paused               bool // stale: at any moment since the last success
}

// look notes that it is now.
func (m *model) look(t rapid.TB, now time.Time) {
	from := m.lastSuccess
	if m.tuned.After(from) {
		from = m.tuned
	}
	polls := parse(t, m.schedule, "test/things").NextN(from, 2)
	m.stale = m.stale || m.lastSuccess.IsZero() || now.After(polls[1].Add(5*time.Second))
}

func (m *model) state() string {
	switch {
	case m.paused:
		return Paused
	case m.stale:
		return Stale
	}
	return Fresh
}

// Whatever happens to a copy in whatever order, all that is shown of it is true: in JSON, in words, in metrics and by
// whichever process.
func TestEveryStateThatIsShownIsTrue(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many polls")
	pool := healthDatabase(t)
	schedules := []string{"", "@every 1s", "@every 1m", "*/15 8-18 * * MON-FRI", "0 6 * * *", "@weekly"}
	rapid.Check(t, func(t *rapid.T) {
		exec(t, pool, `truncate subscription cascade`)
		now := at(t, "2026-11-26 08:00:00").Add(time.Duration(rapid.Int64Range(0, int64(7*day)).Draw(t, "start")))
		polls, other := offline(t, pool, 0), offline(t, pool, 0)
		other.state.assume(roleStandby)
		m := &model{schedule: "@every 5s"}
		pass := func(d time.Duration) { now = now.Add(d); m.look(t, now) }
		t.Repeat(map[string]func(*rapid.T){
			"success": func(t *rapid.T) {
				pass(time.Millisecond)
				polls.succeed(t, now)
				m.lastSuccess, m.failing, m.stale = now, time.Time{}, false
			},
			"failure": func(*rapid.T) {
				pass(time.Millisecond)
				polls.fail(now)
				if m.failing.IsZero() {
					m.failing = now
				}
			},
			"time": func(t *rapid.T) {
				pass(time.Duration(rapid.Int64Range(0, int64(rapid.SampledFrom([]time.Duration{3 * time.Second, time.Minute, time.Hour, 3 * day}).Draw(t, "up to"))).Draw(t, "passes")))
			},
			"tune": func(t *rapid.T) {
				pass(time.Millisecond)
				to := rapid.SampledFrom(schedules).Draw(t, "schedule")
				rapid.SampledFrom([]*copier{polls, other}).Draw(t, "at").mustTune(t, to, now)
				if to == "" {
					to = "@every 5s"
				}
				if to != m.schedule {
					m.schedule, m.tuned = to, now
				}
			},
			"pause":  func(t *rapid.T) { m.paused = true; set(t, other, `paused = true`) },
			"resume": func(t *rapid.T) { m.paused = false; set(t, polls, `paused = false`) },
			"restart": func(t *rapid.T) {
				polls = offline(t, pool, 0)
			},
			"takeover": func(*rapid.T) {
				polls.state.assume(roleStandby)
				other.state.assume(rolePolling)
				polls, other = other, polls
			},
			"": func(t *rapid.T) {
				m.look(t, now)
				for _, c := range []*copier{polls, other} {
					if err := c.row.refresh(context.Background()); err != nil { // as the lease's look does
						t.Fatal(err)
					}
					m.wantShown(t, c.status(now), now)
				}
			},
		})
	})
}

func set(t rapid.TB, c *copier, assignments string) {
	t.Helper()
	if err := c.row.set(context.Background(), assignments); err != nil {
		t.Fatal(err)
	}
}

func (m *model) wantShown(t *rapid.T, s Status, now time.Time) {
	t.Helper()
	same := func(shown *time.Time, want time.Time) bool {
		return shown == nil && want.IsZero() || shown != nil && shown.Equal(want.Truncate(time.Millisecond))
	}
	if s.State != m.state() || !same(s.FailingSince, m.failing) || !same(s.LastSuccessAt, m.lastSuccess) || s.Schedule != m.schedule {
		t.Fatalf("at %v it shows %+v, failing since %v, last success %v; it is %s, %+v", now, s, s.FailingSince, s.LastSuccessAt, m.state(), m)
	}
	if !s.Standby && (s.LastError != nil) && m.failing.IsZero() {
		t.Fatalf("it shows the error %s, but no poll has failed", *s.LastError)
	}
	top, header := Outside.Freshness(s), Outside.Header(s)
	if failing := !m.failing.IsZero(); failing != strings.Contains(top.Failing, "fail") || failing != strings.Contains(header, "failing_since") ||
		strings.HasPrefix(top.Failing, "but ") != (failing && s.State == Fresh) {
		t.Fatalf("failing: %t; the page says %q, the header %s", failing, top.Failing, header)
	}
	for _, next := range s.NextPolls {
		if !next.After(now) {
			t.Fatalf("at %v the next polls are %v", now, s.NextPolls)
		}
	}
}

// A schedule that is set while the source is down makes nothing healthy, and one that is set back makes nothing stale.
func TestScheduleWhileTheSourceIsDown(t *testing.T) {
	t.Parallel()
	noon := at(t, "2026-11-28 12:00:00") // a Saturday
	const officeHours = "*/15 8-18 * * MON-FRI"
	t.Run("stale", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		c.succeed(t, noon)
		c.fail(noon.Add(5 * time.Second))
		c.fail(noon.Add(10 * time.Second))
		now := noon.Add(time.Minute)
		c.mustTune(t, officeHours, now)
		if s := c.status(now.Add(time.Hour)); s.State != Stale || !s.FailingSince.Equal(noon.Add(5*time.Second)) {
			t.Errorf("a longer schedule makes it %s, failing since %v", s.State, s.FailingSince)
		}
		c.mustTune(t, "@every 1h", now.Add(time.Hour))
		if s := c.status(now.Add(time.Hour)); s.State != Stale {
			t.Errorf("another one makes it %s", s.State)
		}
		c.succeed(t, now.Add(2*time.Hour))
		if s := c.status(now.Add(2 * time.Hour)); s.State != Fresh || s.FailingSince != nil {
			t.Errorf("after a success it is %s, failing since %v", s.State, s.FailingSince)
		}
	})
	t.Run("fresh, but polls fail", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		c.mustTune(t, officeHours, noon.Add(-time.Hour))
		c.succeed(t, noon)
		c.fail(noon.Add(time.Minute))
		server := c.site(t, routeThings)
		for _, path := range []string{"/", "/subscriptions", "/subscriptions/things"} {
			if _, text := get(t, server.URL+path, "text/html"); !strings.Contains(text, `polls fail since <time datetime="2026-11-28T12:01:00.000000Z"`) {
				t.Errorf("%s does not say since when polls fail: %s", path, text)
			}
		}
		s := c.status(noon.Add(time.Hour))
		if top := Outside.Freshness(s); s.State != Fresh || top.Failing != "but polls fail since" || !strings.HasPrefix(top.Note, "The source answered 503") {
			t.Errorf("it is %s, %+v", s.State, top)
		}
		if n := testutil.ToFloat64(only{c.poller, c.metrics.failing}); n < 60 {
			t.Errorf("subscription_failing_seconds is %v", n)
		}
	})
	t.Run("set back", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		c.mustTune(t, officeHours, noon.Add(-time.Hour))
		c.succeed(t, noon)
		now := noon.Add(20 * time.Hour)
		c.mustTune(t, "", now)
		if s := c.status(now.Add(9 * time.Second)); s.State != Fresh {
			t.Errorf("a healthy copy is %s at once", s.State)
		}
		if s := c.status(now.Add(16 * time.Second)); s.State != Stale {
			t.Errorf("without a poll for 16 s it is %s", s.State)
		}
	})
	t.Run("the same schedule again is no change", func(t *testing.T) {
		t.Parallel()
		c := offline(t, healthDatabase(t), 0)
		c.succeed(t, noon)
		c.fail(noon.Add(5 * time.Second))
		c.mustTune(t, "@every 5s", noon.Add(12*time.Second))
		if s := c.status(noon.Add(16 * time.Second)); s.State != Stale {
			t.Errorf("it is %s", s.State)
		}
	})
}

// With requests that wait, a poll is due at any time, whatever the schedule.
func TestHealthWhileWaiting(t *testing.T) {
	t.Parallel()
	pool := healthDatabase(t)
	noon := at(t, "2026-11-28 12:00:00")
	c := offline(t, pool, 25*time.Second)
	standby := offline(t, pool, 25*time.Second)
	standby.state.assume(roleStandby)
	c.mustTune(t, "@weekly", noon.Add(-time.Minute))
	c.mustTune(t, "", noon.Add(-time.Minute))
	c.succeed(t, noon)
	for after, want := range map[time.Duration]string{24 * time.Second: Fresh, 36 * time.Second: Stale} {
		for _, p := range []*copier{c, standby} {
			standby.stored(t)
			if s := p.status(noon.Add(after)); s.State != want {
				t.Errorf("%v after the last success it is %s, standby: %t", after, s.State, s.Standby)
			}
		}
	}
	c.mustTune(t, "@weekly", noon)
	c.fail(noon.Add(25 * time.Second))
	if s := c.status(noon.Add(26 * time.Second)); s.State != Fresh || s.FailingSince == nil {
		t.Errorf("at the first failure it is %s, failing since %v", s.State, s.FailingSince)
	}
	if s := c.status(noon.Add(2 * time.Minute)); s.State != Stale {
		t.Errorf("while the source is down for two minutes it is %s", s.State)
	}
}

// Failing is stored: by the next process it is shown from its start, and by a standby.
func TestFailingOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	c := newCopier(t, s)
	c.mustPoll(t)
	s.setTamper(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { http.Error(w, "no", http.StatusTeapot) })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run(ctx)
	}()
	var first time.Time
	eventually(t, "failing is stored", func() bool {
		var failing *time.Time
		if err := c.pool.QueryRow(t.Context(), `select failing_since from subscription`).Scan(&failing); err != nil {
			t.Fatal(err)
		}
		first = timeOrZero(failing)
		return failing != nil
	})
	stop()
	<-ended
	again := s.copier(t, c.pool, 10)
	defer again.fetcher.client.Close()
	again.stored(t)
	if shown := again.shows(); shown.FailingSince == nil || !shown.FailingSince.Equal(first) || Outside.Header(shown) == "" {
		t.Errorf("after a restart it shows failing since %v, not %v", shown.FailingSince, first)
	}
	again.state.assume(rolePolling)
	again.state.after(again.poll(t.Context()), time.Now())
	if shown := again.shows(); !shown.FailingSince.Equal(first) {
		t.Errorf("after its first failure it shows %v, not %v", shown.FailingSince, first)
	}
	s.setTamper(nil)
	again.mustPoll(t)
	again.state.after(nil, time.Now())
	if shown := again.shows(); shown.FailingSince != nil || !again.stored(t).failingSince.IsZero() {
		t.Errorf("after a success it shows %v", shown.FailingSince)
	}
}
