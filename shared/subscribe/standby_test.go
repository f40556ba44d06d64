package subscribe

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/sql"
)

// A service that publishes has a synchronous standby, which stops: a poll ends with an error, what it would publish is
// not on the feed, and no connection stays in use. With the standby back, the next polls bring everything once.
func TestPublishingWithASynchronousStandby(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	s := newSource(t)
	pool := primary.Open("echoes", sql.Migrations("subscribe"), sql.Migrations("publish"), echoMigrations)
	c := s.echoer(t, pool)
	s.put(t, 1, 5)
	c.mustPoll(t)
	standby.Stop()
	s.put(t, 6, 12)
	polled := make(chan error, 1)
	began := time.Now()
	go func() { polled <- c.poll(t.Context()) }()
	commits := func(statement string) bool { return statement == "commit" }
	eventually(t, "the poll to wait for the standby", func() bool { return slices.ContainsFunc(primary.Waiting(), commits) })
	if err := <-polled; !errors.Is(err, publish.ErrUnknown) || time.Since(began) > 40*time.Second {
		t.Errorf("the poll, after %v: %v, want an unknown outcome", time.Since(began), err)
	}
	if n := pool.Stat().AcquiredConns(); n > 0 {
		t.Errorf("%d connections are in use", n)
	}
	if !slices.ContainsFunc(primary.Waiting(), commits) {
		t.Error("the commit was cancelled")
	}
	standby.Start()
	eventually(t, "a poll to succeed", func() bool { return c.poll(t.Context()) == nil })
	s.put(t, 3, 7)
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	n := wantEchoed(t, pool)
	primary.Stop()
	standby.Promote()
	if after := wantEchoed(t, standby.Open("echoes")); after != n {
		t.Errorf("after the failover the feed has %d entries, want %d", after, n)
	}
}

// A service that publishes nothing has a synchronous standby, which stops. The commit that hangs is not cancelled, so
// that nobody sees what a failover would take away. What a poll says of it is true, and with the standby back all is
// there.
func TestCommitWithASynchronousStandby(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	s := newSource(t)
	pool := primary.Open("things", sql.Migrations("subscribe"), thingMigrations)
	c := s.copier(t, pool, 10)
	t.Cleanup(c.fetcher.client.Close)
	s.put(t, 1, 5)
	c.mustPoll(t)
	standby.Stop()
	s.put(t, 6, 7)
	c.timeout = 2 * time.Second
	eventually(t, "a poll that reaches its commit in time", func() bool { return errors.Is(c.poll(t.Context()), publish.ErrUnknown) })
	if n := len(c.things(t)); n != 5 {
		t.Errorf("%d things are seen, of which 5 are confirmed", n)
	}
	if !slices.Contains(primary.Waiting(), "commit") {
		t.Error("the commit was cancelled")
	}
	if n := pool.Stat().AcquiredConns(); n > 0 {
		t.Errorf("%d connections are in use", n)
	}
	c.timeout = time.Minute
	polled := make(chan error, 1)
	go func() { polled <- c.poll(t.Context()) }()
	eventually(t, "the next poll to wait for the row", func() bool {
		var waits bool
		err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where not granted)`).Scan(&waits)
		return err == nil && waits
	})
	standby.Start()
	if err := <-polled; !errors.Is(err, confirmedLate{}) {
		t.Errorf("the poll: %v, want %q", err, confirmedLate{})
	}
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	primary.Stop()
	standby.Promote()
	var n int
	if err := standby.Open("things").QueryRow(t.Context(), `select count(*) from thing`).Scan(&n); err != nil || n != 7 {
		t.Errorf("after the failover there are %d things, %v", n, err)
	}
}

// The answer to a change whose commit hangs says that it may still take effect, and it does.
func TestChangesWithASynchronousStandby(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	s := newSource(t)
	c := s.copier(t, primary.Open("things", sql.Migrations("subscribe"), thingMigrations), 10)
	t.Cleanup(c.fetcher.client.Close)
	server := c.site(t, routeThings)
	s.putNameless(t, 1)
	s.put(t, 2, 3)
	c.mustPoll(t)
	standby.Stop()
	for _, path := range []string{"/pause", "/rejected/" + numbered(1).String() + "/drop"} {
		if resp, text := ask(t, "POST", server.URL+"/subscriptions/things"+path, nil); resp.StatusCode != 503 || !strings.Contains(text, "It may still take effect") {
			t.Errorf("%s: %s: %s", path, resp.Status, text)
		}
	}
	standby.Start()
	eventually(t, "both take effect", func() bool {
		at := c.stored(t)
		return at.paused && at.rejected == 0
	})
}

// A service whose synchronous standby is down stops soon, though its commits hang, and starts: its copy serves.
func TestRunWithoutItsSynchronousStandby(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	s := newSource(t)
	s.put(t, 1, 5)
	publishes := echoService()
	publishes.Name = "echoes"
	services := []*Service{thingService(), publishes}
	runAll := func() (urls []string, stops []func() error) {
		for _, service := range services {
			url, stop, _ := startService(t, service, map[string]string{
				"DATABASE_URL": primary.URL(service.Name), "FEED_URL_THINGS": s.feedURL(), "POLL_THINGS": "@every 1s",
			})
			eventually(t, service.Name+" serves", func() bool { return status(t, url+"/readyz") == 200 })
			urls, stops = append(urls, url), append(stops, stop)
		}
		return urls, stops
	}
	_, stops := runAll()
	standby.Stop()
	s.put(t, 6, 7)
	eventually(t, "both wait for the standby", func() bool { return len(primary.Waiting()) >= len(services) })
	for i, stop := range stops {
		began := time.Now()
		if err := stop(); err != nil || time.Since(began) > 15*time.Second {
			t.Errorf("%s stops after %v: %v", services[i].Name, time.Since(began), err)
		}
	}
	began := time.Now()
	urls, _ := runAll()
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("they serve after %v", took)
	}
	if got := status(t, urls[0]+"/api/things"); got != 200 {
		t.Errorf("status %d", got)
	}
	standby.Start()
	for _, url := range urls {
		eventually(t, "a poll to succeed", func() bool { return subscription(t, url).Cursor == s.head(t).Cursor() })
	}
}
