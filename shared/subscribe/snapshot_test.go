package subscribe

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// walker returns a copier that begins with a snapshot.
func (s *source) walker(t rapid.TB, pool *pgxpool.Pool, pageSize int, columns ...string) *copier {
	c := s.copier(t, pool, pageSize, columns...)
	c.replays = false
	return c
}

func newWalker(t testing.TB, s *source, columns ...string) *copier {
	t.Helper()
	c := s.walker(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), 10, columns...)
	t.Cleanup(c.fetcher.client.Close)
	return c
}

// queries are what was asked since the last call, without cursors, ids and limits.
func (s *source) queries() (list []string) {
	for _, e := range s.exchanges() {
		var names []string
		for parameter := range strings.SplitSeq(e.query, "&") {
			name, value, _ := strings.Cut(parameter, "=")
			if name == "limit" {
				continue
			}
			if value == "0" {
				name += "=0"
			}
			names = append(names, name)
		}
		list = append(list, strings.Join(names, "&"))
	}
	return list
}

func wantQueries(t *testing.T, s *source, want ...string) {
	t.Helper()
	if got := s.queries(); !slices.Equal(got, want) {
		t.Errorf("asked for %q, not %q", got, want)
	}
}

// onPage calls do before the source answers each of the next few requests, with 1 for the first.
func (s *source) onPage(do func(page int)) {
	page := 0
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if page++; page < 8 {
			do(page)
		}
		honest.ServeHTTP(w, r)
	})
}

// failFrom makes the source fail from the n-th request on.
func (s *source) failFrom(n int) {
	asked := 0
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if asked++; asked >= n {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		honest.ServeHTTP(w, r)
	})
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")

	t.Run("a first copy applies each entity once, however many versions it has", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		for range 20 {
			s.put(t, 1, 25)
		}
		s.remove(t, 3)
		for _, columns := range [][]string{nil, {"name"}} {
			c := newWalker(t, s, columns...)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			if columns == nil && !slices.Equal(c.applied, []int{10, 10, 5}) {
				t.Errorf("batches of %v", c.applied)
			}
			wantQueries(t, s, "snapshot=0", "snapshot&from", "snapshot&from", "after")
			if at := c.stored(t); at.headPosition != at.cursor.Position || at.asOf.IsZero() || at.snapshot != (feed.SnapshotPlace{}) {
				t.Errorf("progress %+v", at)
			}
			s.put(t, 30, 31)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			wantQueries(t, s, "after")
		}
	})

	t.Run("an empty feed is asked for a snapshot once", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newWalker(t, s)
		c.mustPoll(t)
		c.mustPoll(t)
		wantQueries(t, s, "snapshot=0", "after=0", "after=0")
		s.put(t, 1, 5)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		wantQueries(t, s, "after=0")
	})

	t.Run("a feed that wants every version is replayed", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newWalker(t, s)
		log := Feed{Name: "things", URL: s.feedURL(), Schedule: "@every 5s", Entries: func(context.Context, *pgxpool.Pool, feed.Cursor, *feed.Page) error { return nil }}
		var err error
		if c.poller, err = newPoller(c.pool, Options{Name: "test", PageSize: 10, Logger: discard}, log); err != nil {
			t.Fatal(err)
		}
		if err := c.create(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.mustPoll(t)
		c.resync(t)
		c.mustPoll(t)
		newCopier(t, s).mustPoll(t)
		wantQueries(t, s, "after=0", "after=0", "after=0")
	})

	t.Run("what is published while it is read", func(t *testing.T) {
		t.Parallel()
		for _, columns := range [][]string{nil, {"name"}} {
			s := newSource(t)
			s.put(t, 1, 60)
			c := newWalker(t, s, columns...)
			s.onPage(func(page int) {
				s.put(t, 5*page, 5*page+20)
				s.remove(t, 7*page)
				s.put(t, 100+page, 100+page)
			})
			c.mustPoll(t)
			s.setTamper(nil)
			c.wantUpToDate(t, s)
			c.resync(t)
			s.onPage(func(page int) {
				s.put(t, 5*page, 5*page+20)
				s.remove(t, 9*page)
				s.put(t, 200+page, 200+page)
			})
			c.mustPoll(t)
			s.setTamper(nil)
			c.wantWalked(t, s, 1)
		}
	})

	t.Run("a restart goes on", func(t *testing.T) {
		t.Parallel()
		for _, columns := range [][]string{nil, {"name"}} {
			s := newSource(t)
			s.put(t, 1, 35)
			c := newWalker(t, s, columns...)
			s.failFrom(3)
			if err := c.poll(t.Context()); err == nil {
				t.Fatal("no error")
			}
			if at := c.stored(t); at.snapshot.Head.Position != 35 || !at.cursor.IsStart() || !at.lastSuccess.IsZero() || len(c.things(t)) != 20 {
				t.Errorf("progress %+v with %d things", at, len(c.things(t)))
			}
			s.setTamper(nil)
			s.exchanges()
			s.put(t, 1, 40)
			c = s.walker(t, c.pool, 7, columns...)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			if asked := s.queries(); asked[0] != "snapshot&from" || slices.Contains(asked, "snapshot=0") {
				t.Errorf("asked for %q", asked)
			}
		}
	})

	t.Run("a restart of a resync goes on", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c := newWalker(t, s)
		c.mustPoll(t)
		exec(t, c.pool, `insert into thing values (gen_random_uuid(), 1, 'of nowhere')`)
		c.resync(t)
		s.failFrom(3)
		if err := c.poll(t.Context()); err == nil {
			t.Fatal("no error")
		}
		if at := c.stored(t); at.resync.snapshot.Head.Position != 35 || at.cursor.Position != 35 || at.resync.cursor.Position != 0 || len(c.things(t)) != 36 {
			t.Errorf("progress %+v with %d things", at, len(c.things(t)))
		}
		if state := c.status(time.Now()).State; state != Resyncing {
			t.Errorf("it is %s", state)
		}
		s.setTamper(nil)
		s.exchanges()
		s.remove(t, 1)
		s.put(t, 2, 2)
		c = s.walker(t, c.pool, 10)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		wantQueries(t, s, "snapshot&from", "snapshot&from", "after")
	})

	// In each case the history may be another one, so that the copy is made again, and loses what it has of the other one.
	for name, c := range map[string]struct {
		tamper  tamper // from the third request on
		queries []string
	}{
		"its history is another one":           {nil, []string{"snapshot&from", "snapshot=0", "after"}},
		"the source answers 404 to a snapshot": {withoutSnapshots(http.StatusNotFound), []string{"snapshot&from", "snapshot=0", "after=0"}},
		"the source answers 400 to a snapshot": {withoutSnapshots(http.StatusBadRequest), []string{"snapshot&from", "snapshot=0", "after=0"}},
		"the source does not know it any more": {withoutSnapshots(0), []string{"snapshot&from", "snapshot=0", "after=0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, resync := range []bool{false, true} {
				for _, columns := range [][]string{nil, {"name"}} {
					s := newSource(t)
					s.put(t, 1, 35)
					w := newWalker(t, s, columns...)
					if resync {
						w.mustPoll(t)
						w.resync(t)
					}
					s.failFrom(3)
					if err := w.poll(t.Context()); err == nil {
						t.Fatal("no error")
					}
					s.setTamper(c.tamper)
					s.exchanges()
					s.restored(t, 5)
					s.put(t, 50, 52)
					if err := w.poll(t.Context()); err != nil { // as one in which a resync begins again
						w.mustPoll(t)
					}
					w.wantWalked(t, s, 1)
					var asked []string
					for _, query := range s.queries() {
						asked = append(asked, strings.TrimSuffix(query, "&history"))
					}
					if !slices.Equal(asked, c.queries) {
						t.Errorf("asked for %q, not %q", asked, c.queries)
					}
				}
			}
		})
	}

	t.Run("a source without snapshots is replayed", func(t *testing.T) {
		t.Parallel()
		for _, status := range []int{0, 400, 404} {
			s := newSource(t)
			s.put(t, 1, 15)
			s.setTamper(withoutSnapshots(status))
			c := newWalker(t, s)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			wantQueries(t, s, "snapshot=0", "after=0", "after")
			c.resync(t)
			c.mustPoll(t)
			c.wantWalked(t, s, 1)
			wantQueries(t, s, "snapshot=0", "after=0", "after")
			c.resync(t)
			s.setTamper(nil)
			c.mustPoll(t)
			c.wantWalked(t, s, 2)
			wantQueries(t, s, "snapshot=0", "snapshot&from", "after")
		}
	})

	t.Run("a source that fails to begin one is replayed", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 15)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if r.URL.Query().Has("snapshot") {
				http.Error(w, "too much", http.StatusInternalServerError)
				return
			}
			honest.ServeHTTP(w, r)
		})
		c := newWalker(t, s)
		err := c.poll(t.Context())
		if err == nil {
			t.Fatal("no error")
		}
		wantQueries(t, s, "snapshot=0")
		c.state.after(err, time.Now())
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})

	t.Run("a page that is none moves nothing", func(t *testing.T) {
		t.Parallel()
		link := regexp.MustCompile(`("next":"[^"]*)snapshot=([^&"]*)&from=([^&"]*)`)
		items := regexp.MustCompile(`(?s)"items":.*`)
		for name, edit := range map[string]func(string) string{
			"of another snapshot": func(body string) string { return strings.Replace(body, `"snapshot":"45-`, `"snapshot":"34-`, 1) },
			"cut":                 func(body string) string { return body[:len(body)/2] },
			"without its first":   func(body string) string { return strings.Replace(body, `"first"`, `"last"`, 1) },
			"that goes nowhere":   func(body string) string { return strings.ReplaceAll(body, `from=`, `from=f`) },
			"without next":        func(body string) string { return strings.Replace(body, `"next":`, `"before":`, 1) },
			"that is empty":       func(body string) string { return items.ReplaceAllString(body, `"items":[]}`) },
			"that goes in a circle": func(body string) string {
				asked := regexp.MustCompile(`"feed_url":"[^"]*from=([^&"]*)`).FindStringSubmatch(body)[1]
				return items.ReplaceAllString(link.ReplaceAllString(body, `${1}snapshot=$2&from=`+asked), `"items":[]}`)
			},
			"that goes back": func(body string) string {
				return link.ReplaceAllString(body, `${1}snapshot=$2&from=`+uuid.Nil.String())
			},
			"that leaves some out": func(body string) string {
				return link.ReplaceAllString(body, `${1}snapshot=$2&from=`+uuid.Max.String())
			},
			"before another replay": func(body string) string { return link.ReplaceAllString(body, `${1}after=44-0123456789ab`) },
			"without its last item": func(body string) string { return body[:strings.LastIndex(body, `,{"id"`)] + "]}" },
			"with an item twice": func(body string) string {
				first, rest, _ := strings.Cut(body, `"items":[`)
				item, _, _ := strings.Cut(rest, `,{"id"`)
				return first + `"items":[` + item + "," + rest
			},
		} {
			s := newSource(t)
			s.put(t, 1, 45)
			c := newWalker(t, s)
			s.failFrom(3)
			_ = c.poll(t.Context())
			before := c.stored(t)
			s.setTamper(edited(edit))
			if err := c.poll(t.Context()); !errors.Is(err, feed.ErrPage) {
				t.Errorf("%s: %v", name, err)
			}
			if at := c.stored(t); at.place != before.place || len(c.things(t)) != 20 {
				t.Errorf("%s: progress %+v", name, at)
			}
			s.setTamper(nil)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		}
	})

	t.Run("what is malformed is rejected, and the rest is copied", func(t *testing.T) {
		t.Parallel()
		for _, columns := range [][]string{nil, {"name"}} {
			s := newSource(t)
			s.put(t, 1, 25)
			c := newWalker(t, s, columns...)
			s.setTamper(edited(func(body string) string {
				return strings.Replace(body, `"version":1,"first":7,`, `"version":"one","first":7,`, 1)
			}))
			c.mustPoll(t)
			if n := count(t, c.pool, `select count(*) from rejected_entry where first_position = 7`); n != 1 || len(c.things(t)) != 24 {
				t.Errorf("%d are rejected, %d copied", n, len(c.things(t)))
			}
			s.setTamper(nil)
			c.resync(t)
			c.mustPoll(t)
			c.wantWalked(t, s, 1)
			if n := count(t, c.pool, `select count(*) from rejected_entry`); n != 0 {
				t.Errorf("%d are rejected", n)
			}
		}
	})

	t.Run("what is erased while it is read", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c := newWalker(t, s)
		s.onPage(func(page int) {
			if page == 2 {
				for n := 1; n <= 35; n += 5 {
					s.erase(t, n)
				}
			}
		})
		c.mustPoll(t)
		s.setTamper(nil)
		if things := c.things(t); len(things) != 28 || c.stored(t).cursor.Position != 42 {
			t.Errorf("%d things at %s", len(things), c.stored(t).cursor)
		}
		if n := count(t, c.pool, `select count(*) from erased_entity`); n != 7 {
			t.Errorf("%d are known to be erased", n)
		}
	})

	t.Run("a pause in the middle", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 60)
		c := newWalker(t, s)
		s.onPage(func(page int) {
			if page == 3 {
				if err := c.row.set(context.Background(), `paused = true`); err != nil {
					t.Error(err)
				}
			}
		})
		if err := c.poller.poll(t.Context(), true); !errors.Is(err, errInterrupted) {
			t.Fatal(err)
		}
		s.setTamper(nil)
		if at := c.stored(t); !at.inSnapshot() || len(c.things(t)) == 0 {
			t.Errorf("progress %+v", at)
		}
		if err := c.row.set(t.Context(), `paused = false`); err != nil {
			t.Error(err)
		}
		if err := c.poller.poll(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		c.wantUpToDate(t, s)
	})

	t.Run("a second process is fenced", func(t *testing.T) {
		t.Parallel()
		for _, columns := range [][]string{nil, {"name"}} {
			s := newSource(t)
			s.put(t, 1, 35)
			c := newWalker(t, s, columns...)
			other := s.walker(t, c.pool, 10, columns...)
			for resyncs := range 2 {
				s.failFrom(2)
				_ = c.poll(t.Context())
				s.onPage(func(page int) {
					s.setTamper(nil)
					other.mustPoll(t)
				})
				if err := c.poll(t.Context()); !errors.Is(err, errFenced) {
					t.Errorf("%v", err)
				}
				c.mustPoll(t)
				if c.wantUpToDate(t, s); c.stored(t).generation != 1+resyncs {
					t.Errorf("progress %+v", c.stored(t))
				}
				c.resync(t)
			}
		}
	})

	t.Run("pages that are too much", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		for range 3 {
			s.put(t, 1, 35)
		}
		c := newWalker(t, s)
		apply := c.Apply
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			if len(b.Entities) > 3 {
				return ErrTooMuch
			}
			return apply(ctx, tx, b)
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})

	// The replay after the snapshot brings it.
	t.Run("a name that an entity gives up to another one while it is read", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := s.walker(t, newWalker(t, s).pool, 1)
		exec(t, c.pool, `create unique index on thing (name)`)
		things := []int{1, 2, 3}
		slices.SortFunc(things, func(a, b int) int { return strings.Compare(numbered(a).String(), numbered(b).String()) })
		s.publish(t, s.named(things[0], "Ada"))
		s.publish(t, s.named(things[1], "Bea"))
		s.publish(t, s.named(things[2], "Cleo"))
		s.onPage(func(page int) {
			if page == 2 {
				s.publish(t, s.named(things[0], "Dora"))
				s.publish(t, s.named(things[2], "Ada"))
			}
		})
		c.mustPoll(t)
		s.setTamper(nil)
		if err := c.quarantine.retryDue(t.Context(), func() bool { return true }); err != nil {
			t.Fatal(err)
		}
		c.wantUpToDate(t, s)
	})

	t.Run("a resync of a feed that was gone begins again", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c := newWalker(t, s)
		c.mustPoll(t)
		c.resync(t)
		s.failFrom(3)
		_ = c.poll(t.Context())
		exec(t, c.pool, `update subscription set resync_since = now() - interval '91 days'`)
		if err := (&sweeper{&Subscriber{options: Options{Name: c.service, RecordAge: 90 * day}, pool: c.pool}}).sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.setTamper(nil)
		c = s.walker(t, c.pool, 10)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
	})
}

// A malformed entry of a snapshot may have the position of another one: none is left out at the end of a resync.
func TestNotesOfOnePosition(t *testing.T) {
	t.Parallel()
	c := newWalker(t, newSource(t))
	exec(t, c.pool, `
		insert into resynced_entity (service, feed, id, version, position, updated, entity)
		select $1, $2, gen_random_uuid(), 1, 7, now(), '{}' from generate_series(1, $3)`, c.service, c.Name, 2*resyncChunk+1)
	seen := map[uuid.UUID]bool{}
	for last := (feed.Entry{}); ; {
		entries, err := c.resyncer.noted(t.Context(), c.pool, last)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		for _, last = range entries {
			seen[last.ID] = true
		}
	}
	if len(seen) != 2*resyncChunk+1 {
		t.Errorf("%d are noted", len(seen))
	}
}

// withoutSnapshots answers a request for a snapshot with the status, or with 0 as if the parameter were unknown.
func withoutSnapshots(status int) tamper {
	return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if r.URL.Query().Has("snapshot") {
			if status != 0 {
				http.Error(w, "what is that", status)
				return
			}
			r = httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.Path, nil)
			r.Header.Set("Accept", feed.TypeJSONFeed)
		}
		honest.ServeHTTP(w, r)
	}
}

// What existed before the service is the past, whenever it changed last, and whatever becomes of its pages. What begins
// later is not.
func TestPastOfASnapshot(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	cut := func(t *testing.T, s *source, c *copier, n int) {
		s.failFrom(n)
		_ = c.poll(t.Context())
		s.setTamper(nil)
	}
	for name, disturb := range map[string]func(t *testing.T, s *source, c *copier){
		"at once":                    func(*testing.T, *source, *copier) {},
		"after a stop":               func(t *testing.T, s *source, c *copier) { cut(t, s, c, 4) },
		"by a resync":                func(t *testing.T, s *source, c *copier) { cut(t, s, c, 4); c.resync(t) },
		"by a resync with a stop":    func(t *testing.T, s *source, c *copier) { cut(t, s, c, 4); c.resync(t); cut(t, s, c, 3) },
		"by a resync from the start": func(t *testing.T, s *source, c *copier) { c.resync(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 50)
			c := newWalker(t, s)
			c.Past = true
			apply := c.Apply
			past := map[uuid.UUID]bool{} // whether an entity was of the past when it came first
			refused := numbered(4)
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				if slices.Contains(b.IDs(), refused) {
					return errors.New("not this one")
				}
				for _, e := range b.Entities {
					if _, is := past[e.ID]; !is {
						past[e.ID] = b.IsPast(e)
					}
				}
				return apply(ctx, tx, b)
			}
			if err := c.seePast(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.put(t, 1, 55) // now all of them are newer than the past
			disturb(t, s, c)
			s.onPage(func(page int) {
				s.put(t, 10*page, 10*page+9)
				s.remove(t, 3*page)
				s.put(t, 100+page, 100+page)
			})
			c.mustPoll(t)
			s.setTamper(nil)
			refused = uuid.Nil
			c.quarantine.begin()
			if err := c.quarantine.retryDue(t.Context(), func() bool { return true }); err != nil {
				t.Fatal(err)
			}
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			for n := 1; n < 120; n++ {
				if is, came := past[numbered(n)]; came && is != (n <= 50) {
					t.Errorf("thing %d is of the past: %t", n, is)
				}
			}
			if _, came := past[numbered(4)]; len(past) < 55 || !came {
				t.Errorf("%d things came", len(past))
			}
		})
	}
}

// Whatever happens between and in the pages of a snapshot and of the replay after it, the copy is in the end what the
// source has.
func TestSnapshotProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	s := newSource(t)
	pool := newWalker(t, s).pool
	rapid.Check(t, func(rt *rapid.T) {
		s.begin(rt)
		exec(rt, pool, `truncate thing, subscription cascade`)
		var columns []string
		most := 10 // things on a page, or published at once
		if rapid.Bool().Draw(rt, "columns") {
			columns, most = []string{"name"}, 2*copyFrom
		}
		c := s.walker(rt, pool, most/2, columns...)
		defer func() { c.fetcher.client.Close() }()
		restore := func(t *rapid.T, to int) {
			s.restored(t, to)
			s.put(t, 1, 3)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				from := rapid.IntRange(1, most).Draw(t, "from")
				s.put(t, from, from+rapid.IntRange(0, 3*most).Draw(t, "more"))
				if n := rapid.IntRange(1, 40).Draw(t, "n"); s.versions[numbered(n)] > 0 {
					s.remove(t, n)
				}
			},
			"restore": func(t *rapid.T) {
				if n := len(s.history); n > 0 {
					restore(t, rapid.IntRange(1, n).Draw(t, "to"))
				}
			},
			"resync": func(t *rapid.T) {
				if err := c.resyncer.begin(context.Background(), "by hand", nil); err != nil {
					t.Fatal(err)
				}
			},
			"restart": func(t *rapid.T) {
				c.fetcher.client.Close()
				c = s.walker(t, pool, rapid.IntRange(1, most).Draw(t, "page size"), columns...)
				c.replays = rapid.IntRange(0, 5).Draw(t, "replay") == 0
			},
			"poll": func(t *rapid.T) {
				pages, once := rapid.IntRange(0, 5).Draw(t, "pages"), false
				do := rapid.SampledFrom([]string{"change", "restore", "cut", "503", "404", "400", "unknown"}).Draw(t, "do")
				s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
					if pages--; pages >= 0 {
						honest.ServeHTTP(w, r)
						return
					}
					first := !once
					once = true
					switch do {
					case "change":
						if first {
							s.put(t, 1, most)
							s.remove(t, 1)
						}
						honest.ServeHTTP(w, r)
					case "restore":
						if n := len(s.history); n > 1 && first {
							restore(t, n/2)
						}
						honest.ServeHTTP(w, r)
					case "cut":
						resetAfter(500)(w, r, honest)
					case "503":
						http.Error(w, "not now", http.StatusServiceUnavailable)
					case "404":
						withoutSnapshots(http.StatusNotFound)(w, r, honest)
					case "400":
						withoutSnapshots(http.StatusBadRequest)(w, r, honest)
					default:
						withoutSnapshots(0)(w, r, honest)
					}
				})
				_ = c.poll(context.Background())
				s.setTamper(nil)
			},
			"poll that the reader breaks off": func(t *rapid.T) {
				var pages atomic.Int64
				pages.Store(int64(rapid.IntRange(0, 3).Draw(t, "pages")))
				apply := c.Apply
				c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
					if err := apply(ctx, tx, b); err != nil || pages.Add(-1) < 0 {
						return errors.Join(err, errors.New("no room"))
					}
					return nil
				}
				_ = c.poll(context.Background())
				c.Apply = apply
			},
			"": func(t *rapid.T) { // a copy that was up to date once is what the source had at the cursor
				if at := c.stored(t); !at.lastSuccess.IsZero() && at.cursor.Position <= int64(len(s.history)) && s.head(t).Cursor() == at.cursor {
					c.wantConsistent(t, s)
				}
			},
		})
		if c.poll(context.Background()) != nil { // a resync has begun again
			c.mustPoll(rt)
		}
		c.mustPoll(rt)
		c.wantUpToDate(rt, s)
	})
}

// Nothing stays of a history that is lost behind the head of a snapshot, however much of it there was when its pages
// were made.
func TestRestoredBehindASnapshot(t *testing.T) {
	t.Parallel()
	for name, resync := range map[string]bool{"a first copy": false, "a resync": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 35)
			c := newWalker(t, s)
			if resync {
				c.mustPoll(t)
				c.resync(t)
			}
			page := 0
			s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
				switch page++; page {
				case 2:
					s.put(t, 1, 36) // positions 36 to 71, behind the head of the snapshot
				case 4:
					s.restored(t, 40)
					s.put(t, 50, 52)
				}
				honest.ServeHTTP(w, r)
			})
			_ = c.poll(t.Context()) // what it holds of the lost history, it must not keep
			s.setTamper(nil)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		})
	}
}
