package subscribe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// wantEndSet fails the test unless the copy is what the source has after one resync, and that read the lost end only.
func (c *copier) wantEndSet(t testing.TB, s *source, reason string) {
	t.Helper()
	c.wantWalked(t, s, 1)
	if at := c.stored(t); at.resyncReason != reason || !at.resync.lost.IsStart() {
		t.Errorf("the reason is %q, want %q", at.resyncReason, reason)
	}
}

// The loss of the end of a feed costs a few requests, however long the feed is: by default 20,000 entries, as many as
// LOST_END_OF says if it is set.
func TestLostEndCosts(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a long feed")
	length := 20_000
	if n, err := strconv.Atoi(os.Getenv("LOST_END_OF")); err == nil {
		length = n
	}
	s := newSource(t)
	for n := 1; n <= length; n += 1000 {
		s.put(t, n, n+999)
	}
	copiers := map[string]*copier{}
	for name, columns := range map[string][]string{"a copy with Apply": nil, "a pure copy": {"name"}, "a copy that has them from one page": {"name"}} {
		c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), 1000, columns...)
		t.Cleanup(c.fetcher.client.Close)
		c.mustPoll(t)
		copiers[name] = c
	}
	poll := func(names ...string) {
		for _, name := range names {
			copiers[name].mustPoll(t)
		}
	}
	for n := 1; n <= 20; n++ { // pages of one entry each
		s.put(t, length+n, length+n)
		poll("a copy with Apply", "a pure copy")
	}
	dump, entries := pgtest.DumpFile(t, s.pool), len(s.history)
	for _, lose := range []func(){
		func() { s.put(t, 5, 5) },
		func() { s.put(t, length+100, length+100) },
		func() { s.remove(t, 7) },
	} {
		lose()
		poll("a copy with Apply", "a pure copy")
	}
	poll("a copy that has them from one page")
	s.restoredTo(t, dump, entries)
	s.put(t, 9, 9)
	for name, c := range copiers {
		s.exchanges()
		c.mustPoll(t)
		asked := s.exchanges()
		t.Logf("%s: %d requests", name, len(asked))
		if len(asked) > 10 {
			t.Errorf("%s has sent %d requests: %v", name, len(asked), asked)
		}
		c.wantEndSet(t, s, "The source has lost the last 3 entries of the feed: 3 entities are set to what it has.")
	}
}

// readsWhole reports whether any of the requests is for the start of the feed.
func readsWhole(asked []exchange) bool {
	return slices.ContainsFunc(asked, func(e exchange) bool {
		return strings.HasPrefix(e.query, "after=0&") || strings.HasPrefix(e.query, "snapshot=0&")
	})
}

func TestLostEnd(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	const three = "The source has lost the last 3 entries of the feed: 3 entities are set to what it has."
	// lose has the copy read things 1 to 30 and some versions more, and then what the source loses.
	lose := func(t *testing.T, s *source, c *copier, what ...func()) {
		t.Helper()
		s.put(t, 1, 30)
		c.mustPoll(t)
		for n := 1; n <= 12; n++ {
			s.put(t, n, n)
			c.mustPoll(t)
		}
		dump, entries := pgtest.DumpFile(t, s.pool), len(s.history)
		for _, w := range what {
			w()
			c.mustPoll(t)
		}
		s.restoredTo(t, dump, entries)
		s.exchanges()
	}
	// usual are three losses: of a version, of a thing, and of a deletion.
	usual := func(t *testing.T, s *source) []func() {
		return []func(){func() { s.put(t, 5, 5) }, func() { s.put(t, 40, 40) }, func() { s.remove(t, 7) }}
	}

	t.Run("what Apply derives", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		exec(t, c.pool, `create table derived (id uuid primary key, of uuid not null, name text not null)`)
		var got []string
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			for _, e := range b.Entities {
				got = append(got, fmt.Sprintf("%d of %s", e.Version, e.ID))
			}
			for _, id := range b.Deleted {
				got = append(got, "no "+id.String())
			}
			if err := copyThings(ctx, tx, b); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `delete from derived where of = any($1)`, append(b.IDs(), b.Deleted...))
			if err == nil {
				_, err = tx.Exec(ctx, `insert into derived select gen_random_uuid(), id, name from thing where id = any($1)`, b.IDs())
			}
			return err
		}
		lose(t, s, c, usual(t, s)...)
		s.put(t, 5, 5)
		s.put(t, 41, 41)
		got = nil
		c.mustPoll(t)
		c.wantEndSet(t, s, three)
		want := []string{
			"no " + numbered(40).String(), fmt.Sprintf("2 of %s", numbered(7)), fmt.Sprintf("3 of %s", numbered(5)), fmt.Sprintf("1 of %s", numbered(41)),
		}
		if !slices.Equal(got, want) {
			t.Errorf("Apply got %v, want %v", got, want)
		}
		if n := count(t, c.pool, `select count(*) from thing full join derived on of = thing.id where thing.name is distinct from derived.name`); n != 0 {
			t.Errorf("%d rows differ", n)
		}
	})

	t.Run("the source goes on with what it lost, and nothing else", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, usual(t, s)...)
		c.mustPoll(t)
		c.wantEndSet(t, s, three)
		s.put(t, 1, 45)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})

	t.Run("it is lost twice, and a third time in the middle", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, usual(t, s)...)
		c.mustPoll(t)
		s.put(t, 20, 23)
		c.mustPoll(t)
		s.restored(t, len(s.history)-2)
		s.put(t, 50, 70)
		again := false
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasPrefix(r.URL.RawQuery, "after=50-") && !again {
				again = true
				s.restored(t, 38)
				s.put(t, 6, 6)
				s.put(t, 71, 80)
			}
			honest.ServeHTTP(w, r)
		})
		if err := c.poll(t.Context()); !errors.Is(err, feedclient.ErrDiverged) || !again {
			t.Fatalf("%v", err)
		}
		c.mustPoll(t)
		c.wantWalked(t, s, 2)
		if readsWhole(s.exchanges()) {
			t.Error("the whole feed was read")
		}
	})

	t.Run("it stops in the middle", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, usual(t, s)...)
		s.put(t, 50, 60)
		copied, snapshots := c.things(t), 0
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasPrefix(r.URL.RawQuery, "snapshot=") {
				if snapshots++; snapshots == 2 {
					http.Error(w, "not now", http.StatusServiceUnavailable)
					return
				}
			}
			honest.ServeHTTP(w, r)
		})
		if err := c.poll(t.Context()); err == nil {
			t.Fatal("nothing failed")
		}
		if !maps.Equal(c.things(t), copied) {
			t.Error("the copy does not serve as it was")
		}
		s.setTamper(nil)
		s.put(t, 61, 62)
		c = s.copier(t, c.pool, 10)
		c.mustPoll(t)
		c.wantEndSet(t, s, three)
	})

	t.Run("a process of an earlier version, which knows no lost end, does not end it", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, usual(t, s)...)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasPrefix(r.URL.RawQuery, "snapshot=") {
				http.Error(w, "not now", http.StatusServiceUnavailable)
				return
			}
			honest.ServeHTTP(w, r)
		})
		_ = c.poll(t.Context())
		s.setTamper(nil)
		if _, err := c.pool.Exec(t.Context(), `update subscription set cursor = resync_cursor, resync_cursor = null, resync_since = null`); err == nil {
			t.Error("it has ended it")
		}
		exec(t, c.pool, `update subscription set resync_cursor = '0', resync_since = now()`) // it begins one of the whole feed
		exec(t, c.pool, `delete from resynced_entity`)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
	})

	for name, begin := range map[string]func(t *testing.T, s *source, c *copier) *copier{
		"by hand": func(t *testing.T, _ *source, c *copier) *copier {
			if err := c.poller.resync(t.Context()); err != nil {
				t.Fatal(err)
			}
			return c
		},
		"for another table": func(t *testing.T, s *source, c *copier) *copier {
			exec(t, c.pool, `alter table thing rename to old`)
			exec(t, c.pool, `create table thing (like old including all)`)
			exec(t, c.pool, `update subscription set table_name = 'old'`)
			return s.copier(t, c.pool, 10)
		},
		"as nothing of the old copy is known": func(t *testing.T, s *source, c *copier) *copier {
			exec(t, c.pool, `delete from thing`)
			c.Resync = "The table was emptied."
			if err := c.create(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Resync = ""
			return c
		},
	} {
		t.Run("a resync of the whole feed begins in the middle, "+name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := newCopier(t, s)
			lose(t, s, c, usual(t, s)...)
			s.put(t, 50, 60)
			s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
				if strings.HasPrefix(r.URL.RawQuery, "snapshot=") {
					http.Error(w, "not now", http.StatusServiceUnavailable)
					return
				}
				honest.ServeHTTP(w, r)
			})
			_ = c.poll(t.Context())
			if c.stored(t).resync.lost.IsStart() {
				t.Fatal("it has not begun")
			}
			c = begin(t, s, c)
			s.setTamper(nil)
			c.mustPoll(t)
			c.wantWalked(t, s, 1)
			if !readsWhole(s.exchanges()) {
				t.Error("the whole feed was not read")
			}
		})
	}

	t.Run("what is erased stays so", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, func() { s.erase(t, 3) }, func() { s.put(t, 5, 5) })
		s.put(t, 8, 8)
		c.mustPoll(t)
		if at := c.stored(t); at.generation != 2 || at.cursor != s.head(t).Cursor() || readsWhole(s.exchanges()) {
			t.Errorf("it is %+v", at)
		}
		want := s.things(t, int64(len(s.history)))
		delete(want, numbered(3))
		if got := c.things(t); !maps.Equal(got, want) {
			t.Errorf("the copy has %v, want %v", got, want)
		}
		s.put(t, 3, 3)
		c.mustPoll(t)
		if _, has := c.things(t)[numbered(3)]; has {
			t.Error("it is back")
		}
	})

	t.Run("what is rejected in the lost end goes, and what was before stays", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		c.bans(t, "^thing (21|40|41), ")
		lose(t, s, c, func() { s.put(t, 40, 40) }, func() { s.putNameless(t, 1) }, func() { s.put(t, 6, 6) })
		c.wantRejectedIDs(t, 21, 40, 0)
		s.put(t, 41, 41)
		s.put(t, 6, 6)
		c.mustPoll(t)
		c.wantRejected(t, s, "violates ", 21, 41)
		if at := c.stored(t); at.generation != 2 || readsWhole(s.exchanges()) {
			t.Errorf("it is %+v", at)
		}
	})

	t.Run("the newest version that is left was rejected", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		exec(t, c.pool, `alter table thing add constraint banned check (name !~ '^thing 12, ' or version <> 2)`)
		lose(t, s, c, func() { s.put(t, 12, 12) })
		c.wantRejectedIDs(t)
		c.mustPoll(t)
		c.wantRejected(t, s, "violates ", 12)
	})

	t.Run("what comes again is refused, and what was before is not", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, func() { s.put(t, 12, 12) }, func() { s.put(t, 40, 41) }, func() { s.put(t, 6, 6) })
		want := s.things(t, int64(len(s.history)))
		for _, n := range []int{12, 40, 1, 42, 6} {
			s.put(t, n, n)
		}
		for _, n := range []int{42, 6} {
			want[numbered(n)] = s.things(t, int64(len(s.history)))[numbered(n)]
		}
		s.put(t, 6, 6)
		c.Check = func(e feed.Entry) error {
			if e.ID == numbered(6) && e.Version == 4 {
				return errors.New("no")
			}
			return nil
		}
		exec(t, c.pool, `alter table thing add constraint banned check (name !~ '^thing (12|1), ' or version < 3) not valid`)
		exec(t, c.pool, `alter table thing add constraint banned_too check (name !~ '^thing 40, ') not valid`)
		c.mustPoll(t)
		c.wantRejectedIDs(t, 12, 40, 1, 6)
		if got := c.things(t); !maps.Equal(got, want) {
			t.Errorf("the copy has %v, want %v", got, want)
		}
		if at := c.stored(t); at.generation != 2 || at.cursor != s.head(t).Cursor() || readsWhole(s.exchanges()) {
			t.Errorf("it is %+v", at)
		}
		exec(t, c.pool, `alter table thing drop constraint banned, drop constraint banned_too`)
		s.put(t, 12, 12)
		s.put(t, 40, 40)
		s.put(t, 1, 1)
		s.put(t, 6, 6)
		c.mustPoll(t)
		c.wantRejected(t, s, "")
	})

	t.Run("the history is compacted before and after", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, func() { s.put(t, 5, 5); s.compact(t) }, func() { s.put(t, 6, 6) })
		exec(t, s.pool, `drop table if exists backup`)
		s.put(t, 5, 5)
		s.compact(t)
		s.put(t, 45, 46)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
	})

	t.Run("it is compacted while it is read", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, usual(t, s)...)
		done := false
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasPrefix(r.URL.RawQuery, "snapshot=") && !done {
				done = true
				s.put(t, 5, 7)
				s.compact(t)
			}
			honest.ServeHTTP(w, r)
		})
		if err := c.poll(t.Context()); !errors.Is(err, errNewer) {
			t.Fatalf("%v", err)
		}
		c.mustPoll(t)
		c.wantEndSet(t, s, three)
	})

	t.Run("the copy has skipped what the lost end superseded", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newWalker(t, s)
		s.put(t, 1, 30)
		c.mustPoll(t)
		s.put(t, 1, 12)
		s.put(t, 1, 12)
		s.put(t, 50, 60)
		s.compact(t)
		calls := 0
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if calls++; calls == 2 {
				s.restored(t, 35)
				s.put(t, 70, 75)
			}
			honest.ServeHTTP(w, r)
		})
		c.pollOn(t)
		c.wantUpToDate(t, s)
	})

	t.Run("more is lost than is known", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 30)
		c := newWalker(t, s)
		c.mustPoll(t)
		s.put(t, 31, 40)
		c.mustPoll(t)
		s.restored(t, 29)
		s.put(t, 41, 45)
		s.exchanges()
		c.mustPoll(t)
		c.wantEndSet(t, s, anotherHistory)
		if !readsWhole(s.exchanges()) {
			t.Error("the whole feed was not read")
		}
	})

	t.Run("a source without snapshots", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, usual(t, s)...)
		s.setTamper(withoutSnapshots(http.StatusBadRequest))
		_ = c.poll(t.Context())
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
	})

	t.Run("the reader's own database is restored, too", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		var dump string
		lose(t, s, c, append(usual(t, s), func() { dump = pgtest.DumpFile(t, c.pool) }, func() { s.put(t, 8, 9) })...)
		pgtest.RestoreFile(t, c.pool, dump)
		c.pool.Reset()
		s.put(t, 50, 51)
		c.mustPoll(t)
		c.wantEndSet(t, s, three)
	})

	t.Run("a shared cache has pages of the lost ends", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := s.copier(t, newCopier(t, s).pool, 3)
		t.Cleanup(c.fetcher.client.Close)
		var mu sync.Mutex
		cache := map[string]*httptest.ResponseRecorder{}
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			mu.Lock()
			defer mu.Unlock()
			answer := cache[r.URL.RawQuery]
			if answer == nil {
				answer = httptest.NewRecorder()
				honest.ServeHTTP(answer, r)
				if strings.Contains(answer.Header().Get("Cache-Control"), "immutable") {
					cache[r.URL.RawQuery] = answer
				}
			}
			maps.Copy(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
		})
		s.put(t, 1, 30)
		c.mustPoll(t)
		for n := range 4 {
			s.restored(t, 20)
			s.put(t, 40, 42+3*n)
			c.mustPoll(t)
			c.wantWalked(t, s, n+1)
		}
		if len(cache) == 0 {
			t.Error("nothing was cached")
		}
		if asked := s.exchanges(); readsWhole(asked[1:]) {
			t.Error("the whole feed was read")
		}
	})

	t.Run("its pages are too long", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		lose(t, s, c, func() { s.put(t, 40, 48) })
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > 3 && r.URL.Query().Has("history") {
				w.Header().Set("Content-Type", feed.TypeJSONFeed)
				_, _ = io.WriteString(w, `{"cut": "of`)
				return
			}
			honest.ServeHTTP(w, r)
		})
		c.pollOn(t)
		c.wantWalked(t, s, 1)
		if readsWhole(s.exchanges()) {
			t.Error("the whole feed was read")
		}
	})

	t.Run("two services in one database", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		exec(t, c.pool, `create table other (like thing including all)`)
		p, err := newPoller(c.pool, Options{Name: "other", PageSize: 7, Logger: discard}, Feed{
			Name: "things", URL: s.feedURL(), Schedule: "@every 5s", Table: "other", Columns: []string{"name"},
		})
		if err == nil {
			err = p.create(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.fetcher.client.Close)
		lose(t, s, c, append(usual(t, s), func() {
			if err := p.poll(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		})...)
		s.put(t, 5, 5)
		c.mustPoll(t)
		c.wantEndSet(t, s, three)
		if err := p.poll(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if n := count(t, c.pool, `select count(*) from thing full join other using (id, version, name) where thing is null or other is null`); n != 0 {
			t.Errorf("%d rows differ", n)
		}
	})

	t.Run("what was rejected of the past is of the past", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		c.Past = true
		past := map[uuid.UUID]bool{}
		refuse := true
		apply := c.Apply
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			for _, e := range b.Entities {
				if refuse && e.ID == numbered(22) {
					return errors.New("not this one")
				}
				past[e.ID] = b.IsPast(e)
			}
			return apply(ctx, tx, b)
		}
		lose(t, s, c, usual(t, s)...) // the copy begins behind thing 30
		refuse = false
		s.put(t, 22, 22)
		s.put(t, 50, 50)
		c.mustPoll(t)
		c.wantEndSet(t, s, three)
		if !past[numbered(22)] || past[numbered(50)] {
			t.Errorf("of the past: 22 %t, 50 %t", past[numbered(22)], past[numbered(50)])
		}
	})
}

// wantRejectedIDs fails the test unless exactly these things are rejected; 0 is one without a readable id.
func (c *copier) wantRejectedIDs(t testing.TB, numbers ...int) {
	t.Helper()
	known := []uuid.UUID{}
	for _, n := range numbers {
		known = append(known, numbered(n))
	}
	if all, some := count(t, c.pool, `select count(*) from rejected_entry`), count(t, c.pool, `select count(*) from rejected_entry where entity_id = any($1)`, known); all != len(numbers) || some != all && some != all-1 {
		t.Fatalf("%d are rejected, %d of them are known", all, some)
	}
}

// A copy keeps about as many pages as it needs.
func TestCopiedPages(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a long feed")
	s := newSource(t)
	s.put(t, 1, 1000)
	c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), 1000, "name")
	t.Cleanup(c.fetcher.client.Close)
	for n := range 30 {
		c.mustPoll(t)
		s.put(t, 1000*n+500, 1000*n+1499)
	}
	c.mustPoll(t)
	pages, err := c.copiedPages(t.Context(), c.stored(t).cursor, 0)
	entries := 0
	for _, p := range pages {
		entries += len(p.ids)
	}
	stored := count(t, c.pool, `select sum(cardinality(ids)) from copied_page`)
	if err != nil || entries < keptEntries || stored < entries || stored > keptEntries+2000 {
		t.Errorf("%d entries are known, of %d: %v", entries, stored, err)
	}
}

func TestIDBefore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := uuid.UUID(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 255}), 16, 16).Draw(t, "id"))
		before := idBefore(id)
		for i := 15; i >= 0; i-- { // and one more
			if before[i]++; before[i] != 0 {
				break
			}
		}
		if before != id && id != uuid.Nil {
			t.Errorf("%s is not before %s", idBefore(id), id)
		}
	})
}
