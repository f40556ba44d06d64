package subscribe

import (
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A copy is current from the end of a poll of this process on, whatever that found, and not by what the database says alone.
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
	want("begun anew", false)
	c.mustPoll(t)
	want("after a poll that found nothing new", true)
	dump := pgtest.DumpFile(t, c.pool)
	c.acting.Begin()
	if err := c.beginWalk(t.Context(), "by hand", nil); err != nil {
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
	if _, err := c.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mustPoll(t)
	want("after a poll since the restore", true)
}
