package subscribe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// breaks has the source's pages say otherwise of the entries at these positions what the pattern matches.
func (s *source) breaks(pattern, other string, positions ...int64) {
	items := regexp.MustCompile(`\{"id":.*?\}\}+[,\]]`)
	part := regexp.MustCompile(pattern)
	s.setTamper(edited(func(body string) string {
		return items.ReplaceAllStringFunc(body, func(item string) string {
			for _, n := range positions {
				if strings.Contains(item, fmt.Sprintf(`"position":%d,`, n)) {
					return part.ReplaceAllString(item, other)
				}
			}
			return item
		})
	}))
}

// An item of which the page says nothing sensible is put aside as a bad entity is, and all others arrive.
func TestMalformed(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many polls")
	for name, columns := range map[string][]string{"by Apply": nil, "a pure copy": {"name"}} {
		for _, x := range []struct{ name, pattern, other, says string }{
			{"an id that is no UUID", `urn:uuid:[0-9a-f-]+`, "tag:thing", "its id is no UUID"},
			{"version 0", `"version":\d+,"entity`, `"version":0,"entity`, "its version is no whole number from 1 on"},
			{"a null for an entity", `"entity":\{.*?\}`, `"entity":null`, "its entity is no object"},
			{"a time that is none", `"date_modified":"[^"]*"`, `"date_modified":"yesterday"`, "its date_modified is no time of RFC 3339"},
			{"a NUL", `urn:uuid:`, `\u0000`, "its id is no UUID"},
			{"the wrong type of a member", `"position"`, `"deleted":"no","position"`, "its deleted is neither true nor false"},
			{"an entity that no decoder reads", `"name":`, `"more":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `,"name":`, "it is nested too deep"},
			{"objects that no decoder reads", `"name":`, strings.Repeat(`"m\\\"]":{`, 10_001) + strings.Repeat("}", 10_001) + `,"name":`, "it is nested too deep"},
			{"no extension", `"_datafeed"`, `"edison"`, "its position is no whole number"},
		} {
			t.Run(x.name+", "+name, func(t *testing.T) {
				t.Parallel()
				s := newSource(t)
				s.put(t, 1, 35)
				c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), 10, columns...)
				t.Cleanup(c.fetcher.client.Close)
				s.breaks(x.pattern, x.other, 1, 4, 5, 20, 35)
				c.mustPoll(t)
				at := c.stored(t)
				if at.cursor != s.head(t).Cursor() || at.rejected != 5 || len(c.things(t)) != 30 {
					t.Fatalf("at %s, %d are rejected, %d applied", at.cursor, at.rejected, len(c.things(t)))
				}
				if n := count(t, c.pool, `select count(*) from rejected_entry where reason = $1 and position in (1, 4, 5, 20, 35)`, x.says); n != 5 {
					t.Errorf("%d are rejected for the right reason", n)
				}
				if c.mustPoll(t); c.stored(t).rejected != 5 {
					t.Errorf("then %d are rejected", c.stored(t).rejected)
				}
			})
		}
	}

	t.Run("the version that it says it has holds back no later one", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 6)
		c := newCopier(t, s)
		c.mustPoll(t)
		s.put(t, 1, 6)
		s.breaks(`"version":2,"entity":\{.*?\}`, `"version":9223372036854775807,"entity":null`, 8)
		c.mustPoll(t)
		if at := c.stored(t); at.rejected != 1 || c.things(t)[numbered(2)].Version != 1 {
			t.Fatalf("%+v, %+v", at, c.things(t)[numbered(2)])
		}
		s.put(t, 2, 2)
		c.mustPoll(t)
		if at := c.stored(t); at.rejected != 0 || c.things(t)[numbered(2)].Version != 3 {
			t.Errorf("%+v, %+v", at, c.things(t)[numbered(2)])
		}
	})

	t.Run("it is cleared by a good version, tried again in vain, and dropped", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 6)
		c := newCopier(t, s)
		server := c.site(t, routeThings)
		c.mustPoll(t)
		s.put(t, 1, 6)
		s.breaks(`"version":2,"entity`, `"version":"2","entity`, 8, 11)
		c.mustPoll(t)
		for i, e := range listed(t, server) {
			if n := []int{2, 5}[i]; e.EntityID != numbered(n) || e.Version != 1 || !strings.Contains(string(e.Entity), `"version":"2"`) || e.Reason != "its version is no whole number from 1 on" {
				t.Errorf("rejected: %+v", e)
			}
		}
		if c.things(t)[numbered(2)].Version != 1 || c.things(t)[numbered(3)].Version != 2 {
			t.Errorf("the copy has %v", c.things(t))
		}
		retries(t, server.URL+"/subscriptions/things/rejected/retry", `{"applied":0,"rejected":2}`)
		s.put(t, 2, 2)
		c.mustPoll(t)
		c.stored(t)
		if list := listed(t, server); len(list) != 1 || list[0].EntityID != numbered(5) || c.things(t)[numbered(2)].Version != 3 {
			t.Errorf("then rejected: %+v", list)
		}
		if resp, text := ask(t, "POST", server.URL+"/subscriptions/things/rejected/"+numbered(5).String()+"/drop", nil); resp.StatusCode != http.StatusNoContent {
			t.Errorf("%s: %s", resp.Status, text)
		}
	})

	t.Run("the good version before it, on the same page, arrives", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		s.put(t, 1, 3)
		c := newCopier(t, s)
		s.breaks(`"version":2,"entity`, `"version":0,"entity`, 5)
		c.mustPoll(t)
		if at := c.stored(t); at.rejected != 1 || c.things(t)[numbered(2)].Version != 1 || c.things(t)[numbered(3)].Version != 2 {
			t.Errorf("%d are rejected of %v", at.rejected, c.things(t))
		}
	})

	t.Run("when the feed is read again from its start", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newCopier(t, s)
		c.mustPoll(t)
		s.put(t, 25, 25) // on the page of its first version
		s.put(t, 1, 2)
		s.breaks(`"version":2,"entity`, `"version":0,"entity`, 26, 27)
		if err := c.resyncer.begin(t.Context(), "A test.", nil); err != nil {
			t.Fatal(err)
		}
		c.mustPoll(t)
		if at, things := c.stored(t), c.things(t); at.cursor != s.head(t).Cursor() || at.rejected != 2 || len(things) != 25 || things[numbered(2)].Version != 2 || things[numbered(25)].Version != 1 {
			t.Errorf("at %s %d are rejected of %v", at.cursor, at.rejected, things)
		}
		s.setTamper(nil)
		if err := c.resyncer.begin(t.Context(), "A test.", nil); err != nil {
			t.Fatal(err)
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantRejected(t, s, "")
	})

	t.Run("of an entity that is erased nothing is kept", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		s.breaks(`"version":1,"entity`, `"version":0,"entity`, 1)
		c.mustPoll(t)
		if left(t, c.pool) != 1 {
			t.Error("it is not put aside")
		}
		s.setTamper(nil)
		s.erase(t, 1)
		s.put(t, 2, 2)
		c.mustPoll(t)
		wantErased(t, c, s)
		s.put(t, 1, 2) // by a source that has forgotten what it erased
		s.breaks(`"version":3,"entity`, `"version":0,"entity`, 8)
		c.mustPoll(t)
		wantErased(t, c, s)
	})

	t.Run("an erasure with a wrong time and a null for an entity is one", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.mustPoll(t)
		s.erase(t, 1)
		s.breaks(`"erased":true`, `"erased":true,"entity":null,"version":0`, 1, 6)
		c.mustPoll(t)
		wantErased(t, c, s)
		if at := c.stored(t); at.rejected > 0 {
			t.Errorf("%d are rejected", at.rejected)
		}
	})

	t.Run("of an erased entity nothing is kept under another id", func(t *testing.T) {
		t.Parallel()
		for _, id := range []string{"urn:uuid:" + numbered(9).String(), "tag:thing"} {
			s := newSource(t)
			s.put(t, 1, 5)
			c := newCopier(t, s)
			c.Check = func(e feed.Entry) error {
				if !e.Deleted && !strings.Contains(string(e.Entity), e.ID.String()) {
					return errors.New("its id is not its entity's")
				}
				return nil
			}
			s.breaks(`urn:uuid:[0-9a-f-]+`, id, 1)
			c.mustPoll(t)
			kept := `select count(*) from rejected_entry where entity is not null and convert_from(entity, 'UTF8') like '%thing 1%'`
			if n := c.stored(t).rejected; n != 1 {
				t.Errorf("%d are rejected", n)
			}
			s.setTamper(nil)
			s.erase(t, 1)
			c.mustPoll(t)
			if n := count(t, c.pool, kept); n > 0 {
				t.Errorf("with the id %s it is kept", id)
			}
			c.fetcher.client.Close()
		}
	})

	// An item under another id of which only the entity's own id says whose it is.
	foreign := func(t *testing.T) (s *source, c *copier) {
		s = newSource(t)
		s.put(t, 1, 25)
		c = newCopier(t, s)
		c.Check = func(e feed.Entry) error {
			if !e.Deleted && !strings.Contains(string(e.Entity), e.ID.String()) {
				return errors.New("its id is not its entity's")
			}
			return nil
		}
		return s, c
	}
	names := func(t *testing.T, c *copier, table string) int {
		return count(t, c.pool, `select count(*) from `+table+` where entity is not null and convert_from(entity, 'UTF8') like '%thing 1,%'`)
	}

	t.Run("of an erased entity a restored table keeps nothing", func(t *testing.T) {
		t.Parallel()
		s, c := foreign(t)
		s.breaks(`urn:uuid:[0-9a-f-]+`, "urn:uuid:"+numbered(90).String(), 1)
		c.mustPoll(t)
		exec(t, c.pool, `create table dump as select * from rejected_entry`)
		s.setTamper(nil)
		s.erase(t, 1)
		c.mustPoll(t)
		exec(t, c.pool, `delete from rejected_entry`)
		exec(t, c.pool, `insert into rejected_entry select * from dump`)
		if names(t, c, "rejected_entry") != 1 {
			t.Fatal("it is not there")
		}
		c.applier.erasures.reset() // as ten seconds later
		c.mustPoll(t)
		if n := names(t, c, "rejected_entry"); n > 0 {
			t.Error("it is kept")
		}
	})

	t.Run("of an erased entity the notes of a resync keep nothing", func(t *testing.T) {
		t.Parallel()
		for _, id := range []string{"urn:uuid:" + numbered(90).String(), "tag:thing"} {
			s, c := foreign(t)
			c.mustPoll(t)
			s.breaks(`urn:uuid:[0-9a-f-]+`, id, 1)
			broken := s.tamper
			failsAfter := func(position string) {
				s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
					if strings.HasPrefix(r.URL.Query().Get("after"), position) {
						w.WriteHeader(http.StatusServiceUnavailable)
						return
					}
					broken(w, r, honest)
				})
			}
			if err := c.resyncer.begin(t.Context(), "A test.", nil); err != nil {
				t.Fatal(err)
			}
			failsAfter("20-")
			_ = c.poll(t.Context())
			s.erase(t, 1)
			s.put(t, 26, 45)
			failsAfter("40-")
			_ = c.poll(t.Context())
			if n := count(t, c.pool, `select count(*) from resynced_entity where bad`); n != 1 {
				t.Errorf("%d bad items are noted", n)
			}
			if n := names(t, c, "resynced_entity"); n > 0 {
				t.Errorf("with the id %s it is kept", id)
			}
			s.setTamper(nil)
			c.mustPoll(t)
			if n := count(t, c.pool, `select count(*) from rejected_entry where entity = '[]' and reason like 'nothing is kept of it:%'`); n != 1 {
				t.Errorf("with the id %s, %d are rejected for the right reason", id, n)
			}
			c.fetcher.client.Close()
		}
	})

	t.Run("a bad entry that names an erased one stays in the list", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		server := c.site(t, routeThings)
		c.mustPoll(t)
		s.erase(t, 1)
		c.mustPoll(t)
		e := s.version(7)
		e.Payload = fmt.Appendf(nil, `{"id": %q, "version": %d, "name": null, "sold_by": %q}`, e.ID, e.Version, numbered(1))
		s.publish(t, e)
		s.put(t, 8, 9)
		c.mustPoll(t)
		c.stored(t)
		list := listed(t, server)
		if len(list) != 1 || list[0].EntityID != numbered(7) || string(list[0].Entity) != "[]" || !strings.Contains(list[0].Reason, "it names an entity that is erased") {
			t.Errorf("rejected: %+v", list)
		}
		retries(t, server.URL+"/subscriptions/things/rejected/retry", `{"applied":0,"rejected":1}`)
		if again := listed(t, server); !reflect.DeepEqual(again, list) {
			t.Errorf("after a retry: %+v", again)
		}
	})

	t.Run("several in the end, after a restart", func(t *testing.T) {
		t.Parallel()
		for name, columns := range map[string][]string{"by Apply": nil, "a pure copy": {"name"}} {
			s := newSource(t)
			s.put(t, 1, 12)
			pool := newCopier(t, s).pool
			c := s.copier(t, pool, 10, columns...)
			c.mustPoll(t)
			s.put(t, 13, 15)
			s.breaks(`urn:uuid:[0-9a-f-]+`, "tag:thing", 13, 14, 15)
			again := s.copier(t, pool, 10, columns...)
			again.mustPoll(t)
			if at := again.stored(t); at.rejected != 3 || at.cursor != s.head(t).Cursor() {
				t.Errorf("%s: at %s %d are rejected", name, at.cursor, at.rejected)
			}
			c.fetcher.client.Close()
			again.fetcher.client.Close()
		}
	})

	t.Run("a source of which nothing can be read is at fault itself", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newCopier(t, s)
		s.setTamper(edited(func(body string) string {
			return strings.ReplaceAll(body, `"_datafeed":{"position"`, `"edison":{"position"`)
		}))
		err := c.poll(t.Context())
		if err == nil || !strings.Contains(err.Error(), "every one of the 10 entries was refused, the first: its position is no whole number") || c.stored(t).rejected > 0 {
			t.Errorf("%d are rejected: %v", c.stored(t).rejected, err)
		}
		s.setTamper(nil)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})
}

// A service that gets every entry gets what can be read, and the rest is put aside as everywhere.
func TestMalformedOfEntries(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 9)
	l := newListener(t, s)
	exec(t, l.pool, `update subscription set table_name = ''`)
	l.Entries = func(_ context.Context, _ *pgxpool.Pool, from feed.Cursor, page *feed.Page) error {
		for _, e := range page.Entries {
			l.heard = append(l.heard, fmt.Sprintf("%d v%d deleted=%t", e.Position, e.Version, e.Deleted))
		}
		if len(page.Entries) == 0 {
			t.Errorf("it gets nothing after %s", from)
		}
		return nil
	}
	heard := func(without ...int) (all []string) {
		for i, e := range s.heard() {
			if !slices.Contains(without, i+1) {
				all = append(all, e)
			}
		}
		return all
	}
	s.breaks(`urn:uuid:[0-9a-f-]+`, "tag:thing", 2, 5, 6, 7, 8, 9)
	l.mustPoll(t)
	if at := l.stored(t); at.rejected != 6 || at.cursor != s.head(t).Cursor() || !slices.Equal(l.heard, heard(2, 5, 6, 7, 8, 9)) {
		t.Errorf("at %s %d are rejected, heard %q", at.cursor, at.rejected, l.heard)
	}
	if shown := l.status(time.Now()); shown.RejectedEntries != 6 {
		t.Errorf("it shows %+v", shown)
	}
	s.breaks(`"version":1,"entity`, `"version":0,"entity`, 2, 3)
	l.heard = nil
	l.quarantine.passed.Store(false) // as in a process that has just started
	if err := l.resyncer.begin(t.Context(), "A test.", nil); err != nil {
		t.Fatal(err)
	}
	l.mustPoll(t)
	if at := l.stored(t); at.rejected != 2 || !slices.Equal(l.heard, heard(2, 3)) {
		t.Errorf("again %d are rejected, heard %q", at.rejected, l.heard)
	}
	s.put(t, 2, 2)
	l.mustPoll(t)
	var id uuid.UUID
	if err := l.pool.QueryRow(t.Context(), `select entity_id from rejected_entry`).Scan(&id); err != nil || id != numbered(3) {
		t.Errorf("then %s is rejected, %v", id, err)
	}
}
