package subscribe

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

func TestPast(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	// begin returns a copier that wants to know of the past, and what Apply was told of it since the last call.
	begin := func(t *testing.T, s *source) (c *copier, told func() []int64) {
		c = newCopier(t, s)
		c.Past = true
		var past []int64
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			past = append(past, b.Past)
			return copyThings(ctx, tx, b)
		}
		return c, func() []int64 { now := slices.Compact(past); past = nil; return now }
	}
	want := func(t *testing.T, told func() []int64, past ...int64) {
		t.Helper()
		if got := told(); !slices.Equal(got, past) {
			t.Errorf("the past is %v, not %v", got, past)
		}
	}

	t.Run("where the feed ended at first, whatever comes while it is copied, and over a resync", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c, told := begin(t, s)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if r.URL.Query().Get("after") == "0" {
				s.put(t, 36, 40)
			}
			honest.ServeHTTP(w, r)
		})
		c.mustPoll(t)
		s.setTamper(nil)
		c.wantUpToDate(t, s)
		want(t, told, 35)
		c.resync(t)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		want(t, told, 35)
		if asked := s.exchanges(); asked[0].query != "" || slices.ContainsFunc(asked[1:], func(e exchange) bool { return e.query == "" }) {
			t.Errorf("asked %v", asked)
		}
	})

	t.Run("0 of an empty feed", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c, told := begin(t, s)
		c.mustPoll(t)
		s.put(t, 1, 5)
		c.mustPoll(t)
		want(t, told, 0)
	})

	t.Run("0 in another history, once it was copied", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c, told := begin(t, s)
		c.mustPoll(t)
		s.restored(t, 20)
		s.put(t, 50, 52)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		s.put(t, 60, 60)
		c.mustPoll(t)
		want(t, told, 35, 0)
	})

	t.Run("what it was in another history, if it was not copied yet", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c, told := begin(t, s)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if after := r.URL.Query().Get("after"); after != "" && after != "0" {
				http.Error(w, "not now", http.StatusServiceUnavailable)
				return
			}
			honest.ServeHTTP(w, r)
		})
		if err := c.poll(t.Context()); err == nil {
			t.Fatal("the second page was copied")
		}
		s.setTamper(nil)
		s.restored(t, 5)
		s.put(t, 50, 52)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		want(t, told, 35)
	})

	t.Run("what it was in another history, while some of it is rejected", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c, told := begin(t, s)
		c.bans(t, "^thing 7, ")
		c.mustPoll(t)
		s.put(t, 36, 40)
		c.mustPoll(t)
		c.forgetPages(t)
		s.restored(t, 37)
		s.put(t, 50, 52)
		exec(t, c.pool, `alter table thing drop constraint banned`)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		want(t, told, 35)
		c.forgetPages(t)
		s.restored(t, 38)
		s.put(t, 60, 60)
		c.mustPoll(t)
		want(t, told, 0)
	})

	t.Run("nobody asks for it in vain", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.mustPoll(t)
		for _, e := range s.exchanges() {
			if e.query == "" {
				t.Error("it was asked where the feed ends")
			}
		}
	})

	t.Run("nothing is copied before the source says it", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c, told := begin(t, s)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if r.URL.RawQuery == "" {
				http.Error(w, "not now", http.StatusServiceUnavailable)
				return
			}
			honest.ServeHTTP(w, r)
		})
		if err := c.poll(t.Context()); err == nil {
			t.Error("it polls without")
		}
		want(t, told)
		s.setTamper(nil)
		c.mustPoll(t)
		want(t, told, 5)
	})
}

// An entity is of the past if one of its versions is, whatever came of that, and whether it comes by a replay or a
// resync.
func TestPastOfEarlierVersions(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, x := range map[string]struct {
		pageSize int
		resync   bool
	}{"on one page": {20, false}, "on one page, in a resync": {20, true}, "on two pages, in a resync": {5, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 5)
			c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), x.pageSize)
			t.Cleanup(c.fetcher.client.Close)
			c.Past = true
			apply := c.Apply
			past := map[uuid.UUID]bool{}
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				for _, e := range b.Entities {
					past[e.ID] = b.IsPast(e)
				}
				return apply(ctx, tx, b)
			}
			if err := c.seePast(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.put(t, 1, 7)
			if x.resync {
				c.resync(t)
			}
			c.mustPoll(t)
			for n := 1; n <= 7; n++ {
				if past[numbered(n)] != (n <= 5) {
					t.Errorf("thing %d is of the past: %t", n, past[numbered(n)])
				}
			}
		})
	}
	t.Run("that were rejected", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.Past = true
		apply := c.Apply
		past := map[uuid.UUID]bool{}
		c.Check = func(e feed.Entry) error {
			if e.ID == numbered(4) && e.Version == 1 {
				return errors.New("no")
			}
			return nil
		}
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			for _, e := range b.Entities {
				past[e.ID] = b.IsPast(e)
			}
			return apply(ctx, tx, b)
		}
		c.mustPoll(t)
		s.put(t, 4, 4)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if is, came := past[numbered(4)]; !is || !came {
			t.Errorf("an entity whose first version was rejected is of the past: %t", is)
		}
	})
}
