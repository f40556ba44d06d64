package subscribe

import (
	"net/http"
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A copy is current from the end of a poll of this process on, whatever that found, and not by what the database says
// alone.
func TestCurrent(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	c.acting = &Current{Service: "test", Feeds: []string{"things"}}
	want := func(when string, current bool) {
		t.Helper()
		behind, err := c.acting.Look(t.Context(), c.pool)
		if err != nil || len(behind) == 0 != current {
			t.Fatalf("%s: behind are %q, %v", when, behind, err)
		}
	}
	c.acting.Begin()
	want("before a poll", false)
	s.put(t, 1, 3)
	c.mustPoll(t)
	want("after a page", true)
	c.acting.Begin()
	want("begun again", false)
	c.mustPoll(t)
	want("after a poll that found nothing new", true)
	dump := pgtest.DumpFile(t, c.pool)
	c.acting.Begin()
	if err := c.resyncer.begin(t.Context(), "by hand", nil); err != nil {
		t.Fatal(err)
	}
	want("before a resync", false)
	c.mustPoll(t)
	want("after a resync", true)
	pgtest.RestoreFile(t, c.pool, dump)
	c.pool.Reset()
	want("restored", false)
	exec(t, c.pool, `update subscription set last_success_at = now() + interval '1 minute'`)
	want("restored, by a clock that was ahead", false)
	if _, err := c.row.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mustPoll(t)
	want("after a poll since the restore", true)
}

// A running service whose database was taken back polls at once, however seldom it is to, and says how old the copy is
// until then.
func TestRestoreUnderASeldomPoll(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	s := newSource(t)
	c := newCopier(t, s)
	url, _, _ := startService(t, thingService(), map[string]string{
		"DATABASE_URL": pgtest.URL(c.pool), "FEED_URL_THINGS": s.feedURL(), "POLL_THINGS": "0 0 29 2 *",
	})
	poll := func() {
		t.Helper()
		resp, err := http.Post(url+"/subscriptions/things/poll", "", nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
	}
	s.put(t, 1, 3)
	poll()
	dump := pgtest.DumpFile(t, c.pool)
	s.put(t, 4, 6)
	poll()
	if n := len(c.things(t)); n != 6 {
		t.Fatalf("%d things", n)
	}
	pgtest.RestoreFile(t, c.pool, dump)
	eventually(t, "the service to poll", func() bool {
		var n int
		err := c.pool.QueryRow(t.Context(), `select count(*) from thing`).Scan(&n) // which may not be there yet
		return err == nil && n == 6
	})
}
