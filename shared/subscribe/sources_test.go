package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// thingsOf returns a subscriber to the sources of the feed of things, by their names.
func thingsOf(t testing.TB, pool *pgxpool.Pool, columns []string, urls map[string]string) *Subscriber {
	t.Helper()
	var feeds []Feed
	for _, name := range []string{"", "eu", "us"} {
		if url := urls[name]; url != "" {
			f := Feed{Name: "things", Source: name, URL: url, Schedule: "@every 5s", Table: "thing", Columns: columns}
			if columns == nil {
				f.Apply = copyThings
			}
			feeds = append(feeds, f)
		}
	}
	s, err := New(t.Context(), pool, Options{Name: "test", PageSize: 10}, feeds...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.pollers {
		t.Cleanup(p.fetcher.client.Close)
	}
	return s
}

func poll(t testing.TB, s *Subscriber, name string) {
	t.Helper()
	if err := s.Subscription(name).p.poll(context.Background(), false); err != nil {
		t.Fatalf("poll %s: %v", name, err)
	}
}

func copiedThings(t testing.TB, pool *pgxpool.Pool) map[uuid.UUID]thing {
	t.Helper()
	return (&copier{poller: &poller{target: &target{pool: pool}}}).things(t)
}

// wantUnion fails the test unless the copy is what the sources have, and owners are known for each entity.
func wantUnion(t testing.TB, pool *pgxpool.Pool, sources ...*source) {
	t.Helper()
	want := map[uuid.UUID]thing{}
	for _, s := range sources {
		maps.Copy(want, s.things(t, int64(len(s.history))))
	}
	if got := copiedThings(t, pool); !maps.Equal(got, want) {
		t.Errorf("the copy has %d things, the sources have %d, or they differ:\n%v\n%v", len(got), len(want), got, want)
	}
	if owners := count(t, pool, `select count(*) from entity_owner`); owners != len(want) {
		t.Errorf("%d entities have an owner, not %d", owners, len(want))
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	for kind, columns := range map[string][]string{"a copy with Apply": nil, "a pure copy": {"name"}} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			whole := t
			eu, us, pool := newSource(t), newSource(t), pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
			eu.put(t, 1, 25)
			us.put(t, 101, 130)
			urls := map[string]string{"eu": eu.feedURL(), "us": us.feedURL()}
			s := thingsOf(t, pool, columns, urls)
			poll(t, s, "things@eu")
			poll(t, s, "things@us")
			wantUnion(t, pool, eu, us)
			for i, want := range []string{"things@eu", "things@us"} {
				if status := s.Status()[i]; status.Feed != want || status.Cursor.Position != int64(25+5*i) || status.State != Fresh {
					t.Errorf("the subscription is %+v", status)
				}
			}

			t.Run("an entity that two publish is rejected, whatever its version", func(t *testing.T) {
				us.put(t, 3, 3)
				us.put(t, 3, 3)
				us.put(t, 131, 131)
				poll(t, s, "things@us")
				delete(us.versions, numbered(3))
				list, err := s.Subscription("things@us").Rejected(t.Context(), -1, uuid.UUID{}, 10)
				if err != nil || len(list) != 1 || !strings.HasPrefix(list[0].Reason, "the entity is of the source eu, which has published it") || list[0].Version != 2 {
					t.Fatalf("rejected are %+v, %v", list, err)
				}
				if got := copiedThings(t, pool); got[numbered(3)].Version != 1 || got[numbered(131)].Version != 1 {
					t.Errorf("the copy has %v and %v", got[numbered(3)], got[numbered(131)])
				}
				if _, _, err := s.Subscription("things@us").RetryAll(t.Context()); err != nil {
					t.Error(err)
				}
				if got := copiedThings(t, pool)[numbered(3)]; got.Version != 1 {
					t.Errorf("after a retry the copy has %v", got)
				}
			})
			t.Run("the tombstone of its owner frees it", func(t *testing.T) {
				eu.remove(t, 3)
				poll(t, s, "things@eu") // the other source is not asked
				if n := count(t, pool, `select count(*) from rejected_entry`); n != 0 {
					t.Errorf("%d entries are rejected", n)
				}
				if got := s.Subscription("things@us").Status().RejectedEntries; got != 0 {
					t.Errorf("the status has %d rejected entries", got)
				}
				wantUnion(t, pool, eu, us)
			})
			t.Run("a tombstone of another source changes nothing, and takes back what it has published", func(t *testing.T) {
				us.put(t, 4, 4)
				poll(t, s, "things@us")
				us.remove(t, 4)
				us.put(t, 5, 5)
				us.erase(t, 5)
				poll(t, s, "things@us")
				if n := count(t, pool, `select count(*) from rejected_entry`); n != 0 {
					t.Errorf("%d entries are rejected", n)
				}
				s.Subscription("things@us").p.applier.erasures.reset()
				poll(t, s, "things@us")
				wantUnion(t, pool, eu, us)
				eu.put(t, 5, 5)
				poll(t, s, "things@eu")
				wantUnion(t, pool, eu, us)
			})
			t.Run("a resync of one source touches no rows of another one", func(t *testing.T) {
				us.put(t, 6, 6) // of eu
				us.begin(t)
				us.put(t, 110, 120)
				us.put(t, 7, 7) // of eu
				before := copiedThings(t, pool)
				poll(t, s, "things@us")
				after := copiedThings(t, pool)
				for n := range 25 {
					if id := numbered(n + 1); n != 2 && before[id] != after[id] {
						t.Errorf("thing %d was %v and is %v", n+1, before[id], after[id])
					}
				}
				us.remove(t, 7)
				poll(t, s, "things@us")
				wantUnion(t, pool, eu, us)
				if generations := count(t, pool, `select sum(generation) from subscription`); generations != 3 {
					t.Errorf("the generations add up to %d, not 3", generations)
				}
				eu.begin(t)
				eu.put(t, 120, 122) // of us, but for two
				eu.put(t, 1, 1)
				poll(t, s, "things@eu")
				if n := count(t, pool, `select count(*) from rejected_entry where feed = 'things@eu'`); n != 1 {
					t.Errorf("%d entries are rejected", n)
				}
				eu.remove(t, 120)
				poll(t, s, "things@eu")
				wantUnion(t, pool, eu, us)
			})
			t.Run("the URL of a source changes", func(t *testing.T) {
				at := s.Subscription("things@eu").Status().Cursor
				eu.serve(whole, "127.0.0.1:0")
				urls["eu"] = eu.feedURL()
				eu.put(t, 8, 9)
				s = thingsOf(t, pool, columns, urls)
				eu.exchanges()
				poll(t, s, "things@eu")
				if asked := eu.exchanges(); len(asked) == 0 || !strings.Contains(asked[0].query, "after="+at.String()) {
					t.Errorf("it was asked %v after %s", asked, at)
				}
				wantUnion(t, pool, eu, us)
			})
			t.Run("what a source has published stays when it is removed, until it is forgotten", func(t *testing.T) {
				eu.put(t, 111, 111) // of us
				poll(t, s, "things@eu")
				delete(urls, "us")
				s = thingsOf(t, pool, columns, urls)
				poll(t, s, "things@eu")
				if removed, err := s.Removed(t.Context()); err != nil || len(removed) != 1 || removed[0].Feed != "things@us" || removed[0].AsOf == nil {
					t.Errorf("removed are %v, %v", removed, err)
				}
				if err := s.Forget(t.Context(), "things@eu"); !errors.Is(err, ErrSubscribed) {
					t.Errorf("a source that is there: %v", err)
				}
				for _, name := range []string{"things@apac", "others@us", "things@", "things"} {
					if err := s.Forget(t.Context(), name); !errors.Is(err, ErrNoSource) {
						t.Errorf("%s: %v", name, err)
					}
				}
				if n := count(t, pool, `select count(*) from entity_owner where source = 'us'`); n != 11 {
					t.Errorf("%d entities are of the removed source", n)
				}
				if err := s.Forget(t.Context(), "things@us"); err != nil {
					t.Fatal(err)
				}
				wantUnion(t, pool, eu)
				if removed, err := s.Removed(t.Context()); err != nil || len(removed) != 0 {
					t.Errorf("removed are %v, %v", removed, err)
				}
			})
		})
	}
}

// A source that was the only one gets a name, and another one beside it.
func TestNameSource(t *testing.T) {
	t.Parallel()
	one, us, pool := newSource(t), newSource(t), pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
	one.put(t, 1, 20)
	one.put(t, 21, 21)
	one.erase(t, 21)
	us.put(t, 101, 110)
	s := thingsOf(t, pool, nil, map[string]string{"": one.feedURL()})
	poll(t, s, "things")
	if n := count(t, pool, `select count(*) from entity_owner`); n != 0 {
		t.Errorf("%d entities of a source without a name have an owner", n)
	}
	one.remove(t, 20) // after the last poll without a name
	urls := map[string]string{"eu": one.feedURL(), "us": us.feedURL()}
	s = thingsOf(t, pool, nil, urls)
	poll(t, s, "things@eu")
	poll(t, s, "things@us")
	if err := s.Forget(t.Context(), "things"); err != nil { // what no source with a name has
		t.Fatal(err)
	}
	wantUnion(t, pool, one, us)
	if n := count(t, pool, `select count(*) from erased_entity where feed = 'things@eu'`); n != 1 {
		t.Errorf("%d erased entities are known of the source with a name", n)
	}

	// A resync of a source without a name leaves the rows of the others.
	s = thingsOf(t, pool, nil, map[string]string{"": one.feedURL()})
	poll(t, s, "things")
	if err := s.Subscription("things").Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	poll(t, s, "things")
	wantUnion(t, pool, one, us)

	_, err := New(t.Context(), pool, Options{Name: "test"}, Feed{
		Name: "others", URL: us.feedURL(), Schedule: "@every 5s", Table: "thing", Source: "eu", Apply: copyThings,
	})
	if err == nil || !strings.Contains(err.Error(), "the table thing holds the copy of the feed things") {
		t.Errorf("another feed with the same table: %v", err)
	}
	for _, name := range []string{"EU", "e u", "1", "a@b", strings.Repeat("a", 33)} {
		if CheckSource(name) == nil {
			t.Errorf("a source may be named %q", name)
		}
	}
}

// A source is restored, and has lost the end of its feed.
func TestRestoreOneOfTwo(t *testing.T) {
	t.Parallel()
	eu, us, pool := newSource(t), newSource(t), pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
	eu.put(t, 1, 40)
	us.put(t, 101, 110)
	s := thingsOf(t, pool, nil, map[string]string{"eu": eu.feedURL(), "us": us.feedURL()})
	poll(t, s, "things@eu")
	poll(t, s, "things@us")
	eu.put(t, 35, 50)
	eu.put(t, 105, 105) // of us
	poll(t, s, "things@eu")
	eu.restored(t, 40)
	eu.put(t, 60, 60)
	before := us.things(t, int64(len(us.history)))
	poll(t, s, "things@eu")
	wantUnion(t, pool, eu, us)
	got := copiedThings(t, pool)
	for id, want := range before {
		if got[id] != want {
			t.Errorf("%v became %v", want, got[id])
		}
	}
	if reason := s.Subscription("things@eu").Status().ResyncReason; !strings.Contains(reason, "has lost the") {
		t.Errorf("the resync was: %s", reason)
	}
	if n := count(t, pool, `select count(*) from rejected_entry`); n != 0 {
		t.Errorf("%d entries are rejected", n)
	}
}

// Both sources publish at the same time, entities of each other too.
func TestSourcesAtTheSameTime(t *testing.T) {
	t.Parallel()
	eu, us, pool := newSource(t), newSource(t), pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
	s := thingsOf(t, pool, nil, map[string]string{"eu": eu.feedURL(), "us": us.feedURL()})
	for round := range 5 {
		eu.put(t, 1+100*round, 60+100*round)
		us.put(t, 40+100*round, 99+100*round)
		done := make(chan error)
		for _, name := range []string{"things@eu", "things@us"} {
			go func() { done <- s.Subscription(name).p.poll(context.Background(), false) }()
		}
		for range 2 {
			if err := <-done; err != nil && !strings.Contains(err.Error(), "40P01") {
				t.Error(err)
			}
		}
	}
	poll(t, s, "things@eu")
	poll(t, s, "things@us")
	if n := len(copiedThings(t, pool)); n != 5*99 {
		t.Errorf("the copy has %d things", n)
	}
	if n := count(t, pool, `select count(*) from rejected_entry`); n != 5*21 {
		t.Errorf("%d entries are rejected", n)
	}
	mixed := count(t, pool, `select count(*) from thing join entity_owner using (id) join rejected_entry on entity_id = id and split_part(rejected_entry.feed, '@', 2) = source`)
	if mixed != 0 {
		t.Errorf("%d entities are rejected of their owners", mixed)
	}
}

// A process with two sources is killed while it copies, and a source is then removed and forgotten.
func TestServiceOfTwoSources(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	eu, us, pool := newSource(t), newSource(t), pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
	eu.put(t, 1, 60)
	us.put(t, 101, 160)
	two := "eu=" + eu.feedURL() + " us=" + us.feedURL()
	env := map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": two, "POLL_THINGS": "@every 1s", "PAGE_SIZE": "5"}
	first := exectest.Self(t, env)
	eventually(t, "some things are there", func() bool { return count(t, pool, `select count(*) from thing`) > 10 })
	signal(t, first, syscall.SIGKILL)
	url, stop, _ := start(t, env)
	has(t, pool, 120)
	eventually(t, "it is ready", func() bool { return status(t, url+"/readyz") == 200 })
	wantUnion(t, pool, eu, us)

	resp, text := get(t, url+"/api/things", "application/json")
	if head := resp.Header.Values("Datafeed-Copy"); len(head) != 2 || !strings.HasPrefix(head[1], "things; source=us; state=fresh;") {
		t.Errorf("%s with %q", text, head)
	}
	var list []Status
	if _, text := get(t, url+"/subscriptions", "application/json"); json.Unmarshal([]byte(text), &list) != nil || len(list) != 2 || list[0].Feed != "things@eu" || list[1].URL != us.feedURL() {
		t.Errorf("the subscriptions are %s", text)
	}
	if resp, page := get(t, url+"/subscriptions/things@us", "text/html"); resp.StatusCode != 200 || !strings.Contains(page, "Subscription to things@us") {
		t.Errorf("%d\n%s", resp.StatusCode, page)
	}
	if _, metrics := get(t, url+"/metrics", "*/*"); !strings.Contains(metrics, `subscription_lag_entries{feed="things@us"}`) {
		t.Error("no metrics of the second source")
	}
	post := func(path, accept string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	if code, text := post("/subscriptions/things@us/forget", "*/*"); code != 409 || !strings.Contains(text, "Take it out of the settings") {
		t.Errorf("a source that is subscribed to: %d %s", code, text)
	}
	if code, _ := post("/subscriptions/things@asia/forget", "*/*"); code != 404 {
		t.Errorf("a source that never was: %d", code)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	env["FEED_URL_THINGS"] = "eu=" + eu.feedURL()
	url, _, _ = start(t, env)
	eventually(t, "it is ready", func() bool { return status(t, url+"/readyz") == 200 })
	wantUnion(t, pool, eu, us)
	if _, text := get(t, url+"/subscriptions?removed", "application/json"); !strings.Contains(text, `"feed":"things@us"`) {
		t.Errorf("removed are %s", text)
	}
	if _, page := get(t, url+"/subscriptions", "text/html"); !strings.Contains(page, `action="/subscriptions/things@us/forget"`) {
		t.Errorf("the page does not offer to forget it:\n%s", page)
	}
	if code, text := post("/subscriptions/things@us/forget", "text/html"); code != 303 {
		t.Errorf("%d %s", code, text)
	}
	wantUnion(t, pool, eu)
	if _, text := get(t, url+"/subscriptions?removed", "application/json"); strings.TrimSpace(text) != "[]" {
		t.Errorf("removed are %s", text)
	}
}
