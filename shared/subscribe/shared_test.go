package subscribe

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// serviceNamed is service under another name, with a table of its own: NAME_thing. It refuses things by the name of
// refused.
func serviceNamed(name string) *Service {
	s, table := thingService(), name+"_thing"
	s.Name = name
	s.Migrations = postgres.Migrations{Name: name, FS: fstest.MapFS{"00001_thing.sql": {Data: []byte(
		"-- +goose Up\ncreate table " + table + " (id uuid primary key, version bigint not null, name text not null check (name <> 'bad for " + name + "'));\n")}}}
	s.Feeds[0].Table = table
	s.Feeds[0].Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error { return b.Upsert(ctx, tx, table, "name") }
	return s
}

func rows(t testing.TB, pool *pgxpool.Pool, table string) int {
	t.Helper()
	return count(t, pool, `select count(*) from `+table)
}

// inOneSchema is the URL of a database where services do not keep their tables apart by themselves.
func inOneSchema(pool *pgxpool.Pool) string { return pgtest.URL(pool) + "&search_path=public" }

func TestServicesShareADatabase(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many services")
	s := newSource(t)
	s.put(t, 1, 25)
	pool := pgtest.New(t)
	env := map[string]string{"DATABASE_URL": inOneSchema(pool), "FEED_URL_THINGS": s.feedURL(), "PAGE_SIZE": "10"}
	names := []string{"one", "two", "three"}
	urls, stops := map[string]string{}, map[string]func() error{}
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, name := range names {
		all.Go(func() {
			url, stop, _ := startService(t, serviceNamed(name), env)
			mu.Lock()
			defer mu.Unlock()
			urls[name], stops[name] = url, stop
		})
	}
	all.Wait()
	if len(urls) != len(names) {
		t.Fatal("not all have started")
	}
	upToDate := func(name string) func() bool {
		return func() bool {
			got := subscription(t, urls[name])
			return !got.Standby && got.State == Fresh && got.Cursor == s.head(t).Cursor() && rows(t, pool, name+"_thing")+got.RejectedEntries == len(s.history)
		}
	}
	for _, name := range names {
		eventually(t, name+" polls, and has a whole copy", upToDate(name))
	}

	t.Run("what is set for one", func(t *testing.T) {
		change(t, "POST", urls["two"]+"/subscriptions/things/pause", 200, nil)
		change(t, "PUT", urls["three"]+"/subscriptions/things/schedule", 200, `{"schedule": "@every 2s", "page_size": 7}`)
		s.put(t, 26, 30)
		eventually(t, "the first copies", upToDate("one"))
		eventually(t, "the third copies", upToDate("three"))
		one, two := subscription(t, urls["one"]), subscription(t, urls["two"])
		if one.Schedule != "@every 1s" || one.PageSize != 10 || two.State != Paused || two.Cursor == one.Cursor || rows(t, pool, "two_thing") != 25 {
			t.Errorf("the first is %+v, the second %+v", one, two)
		}
		change(t, "POST", urls["two"]+"/subscriptions/things/resume", 200, nil)
		eventually(t, "the second copies", upToDate("two"))
	})

	t.Run("what one refuses", func(t *testing.T) {
		e := s.version(31)
		e.Payload = fmt.Appendf(nil, `{"id": %q, "version": 1, "name": "bad for two"}`, e.ID)
		s.publish(t, e)
		for _, name := range names {
			eventually(t, name+" has it, or has refused it", upToDate(name))
		}
		eventually(t, "only the second has refused it", func() bool {
			return subscription(t, urls["one"]).RejectedEntries == 0 && subscription(t, urls["two"]).RejectedEntries == 1 && subscription(t, urls["three"]).RejectedEntries == 0
		})
		refused(t, "POST", urls["one"]+"/subscriptions/things/rejected/"+e.ID.String()+"/drop", nil, 404)
		refused(t, "POST", urls["three"]+"/subscriptions/things/rejected/"+e.ID.String()+"/retry", nil, 404)
		refused(t, "POST", urls["two"]+"/subscriptions/things/rejected/"+e.ID.String()+"/retry", nil, 422)
		newer, err := serviceNamed("two").Feeds[0].Newer(t.Context(), begun(t, pool), []feed.Entry{{ID: e.ID, Version: 0}})
		if err != nil || len(newer) != 0 {
			t.Errorf("the second takes for newer %v: %v", newer, err)
		}
		newer, err = serviceNamed("one").Feeds[0].Newer(t.Context(), begun(t, pool), []feed.Entry{{ID: e.ID, Version: 2}})
		if err != nil || len(newer) != 1 {
			t.Errorf("the first takes for newer %v: %v", newer, err)
		}
	})

	t.Run("a resync of one", func(t *testing.T) {
		change(t, "POST", urls["three"]+"/subscriptions/things/resync", 202, nil)
		eventually(t, "the third has read the feed again from its start", func() bool { return subscription(t, urls["three"]).Generation == 2 })
		if one, two := subscription(t, urls["one"]), subscription(t, urls["two"]); one.Generation != 1 || two.Generation != 1 || two.RejectedEntries != 1 {
			t.Errorf("the first is %+v, the second %+v", one, two)
		}
	})

	t.Run("two replicas of one", func(t *testing.T) {
		other, _, _ := startService(t, serviceNamed("one"), env)
		eventually(t, "it stands by", func() bool { return subscription(t, other).Standby && status(t, other+"/readyz") == 200 })
		if err := stops["one"](); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it polls", func() bool { return !subscription(t, other).Standby })
	})
}

// Two environments may have a service of one name in one database, each in a schema of its own.
func TestServicesOfOneName(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 5)
	pool := pgtest.New(t)
	for _, schema := range []string{"staging", "production"} {
		exec(t, pool, `create schema `+schema)
		url, _, _ := startService(t, thingService(), map[string]string{
			"DATABASE_URL": pgtest.URL(pool) + "&search_path=" + schema, "FEED_URL_THINGS": s.feedURL(),
		})
		eventually(t, schema+" polls, and has a whole copy", func() bool {
			return !subscription(t, url).Standby && rows(t, pool, schema+".thing") == 5
		})
	}
}

// begun is a transaction that is rolled back in the end.
func begun(t testing.TB, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// Two services that keep their copies in one table would each delete what the other has.
func TestServicesShareATable(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 5)
	pool := pgtest.New(t)
	env := map[string]string{"DATABASE_URL": inOneSchema(pool), "FEED_URL_THINGS": s.feedURL()}
	startService(t, thingService(), env)
	has(t, pool, 5)
	for name, c := range map[string]struct {
		change func(*Service)
		want   string
	}{
		"by the same migrations": {func(s *Service) {}, "the table thing holds the copy of things that the service test keeps in the same database"},
		"by migrations of its own": {func(s *Service) { s.Migrations.Name = "another" },
			`relation "thing" already exists (SQLSTATE 42P07); services that share a schema need tables with names of their own`},
		"which is there already": {func(s *Service) {
			s.Migrations = postgres.Migrations{Name: "clash", FS: fstest.MapFS{"00001_thing.sql": {Data: []byte(
				"-- +goose Up\ncreate table if not exists thing (id uuid primary key, version bigint not null, name text not null);\n")}}}
		}, "the service test keeps in the same database"},
		"for another feed": {func(s *Service) { s.Feeds[0].Name = "people" }, "the service test keeps in the same database"},
	} {
		t.Run(name, func(t *testing.T) {
			clash := thingService()
			clash.Name = "clash"
			c.change(clash)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := clash.Run(ctx, env, new(journal)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
	if n := rows(t, pool, "thing"); n != 5 || rows(t, pool, "subscription") != 1 {
		t.Errorf("%d things are left", n)
	}
	exec(t, pool, `insert into erased_entity (service, feed, id) values ('test', 'things', $1)`, numbered(9))
	clash := thingService()
	clash.Name = "clash"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := clash.Run(ctx, env, new(journal))
	_, renamed, found := strings.Cut(fmt.Sprint(err), "has been renamed to clash: ")
	if !found {
		t.Fatal(err)
	}
	statements, _, _ := strings.Cut(renamed, ")")
	for statement := range strings.SplitSeq(statements, "; ") {
		exec(t, pool, statement)
	}
	exec(t, pool, `insert into thing values ($1, 1, 'back')`, numbered(9)) // as by the restore of a table
	url, _, _ := startService(t, clash, env)
	eventually(t, "it goes on under its new name, and knows what is erased", func() bool {
		return subscription(t, url).Cursor == s.head(t).Cursor() && status(t, url+"/readyz") == 200 && rows(t, pool, "thing") == 5
	})
}

// Services that publish share the log's tables; each appends to feeds of its own.
func TestPublishingServicesShareADatabase(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many services")
	s := newSource(t)
	s.put(t, 1, 25)
	pool := pgtest.New(t)
	env := map[string]string{"DATABASE_URL": inOneSchema(pool), "FEED_URL_THINGS": s.feedURL(), "PAGE_SIZE": "5"}
	publishing := func(name string) *Service {
		p := serviceNamed(name)
		migrations := p.Migrations.FS.(fstest.MapFS)["00001_thing.sql"]
		migrations.Data = append(migrations.Data, "select feed_create('"+name+"');\n"...)
		p.Publishes = func(string) []feed.Description {
			described := describeEchoes("http://service.example")
			described[0].Name = name
			return described
		}
		p.Feeds[0].Apply = Publishing(func(ctx context.Context, tx *publish.Tx, b *Batch) error {
			for _, e := range b.Entities {
				tx.Append(name, publish.Entry{ID: e.ID, Version: e.Version, Updated: e.Updated, Payload: e.Entity})
			}
			return b.Upsert(ctx, tx, name+"_thing", "name")
		})
		return p
	}
	one, _, _ := startService(t, publishing("one"), env)
	two, _, _ := startService(t, publishing("two"), env)
	complete := func(n int) {
		t.Helper()
		for name, url := range map[string]string{"one": one, "two": two} {
			eventually(t, name+" has copied and published all", func() bool {
				page, err := newClient(t).Get(t.Context(), feedclient.Request{URL: url + "/feeds/" + name, Limit: feed.MaxPageSize})
				return err == nil && page.Page.UpToDate && len(page.Page.Entries) == n && rows(t, pool, name+"_thing") == n
			})
		}
	}
	complete(25)
	if got := status(t, one+"/feeds/two"); got != 404 {
		t.Errorf("the first serves the feed of the second: %d", got)
	}
	s.put(t, 26, 40)
	complete(40)
}

func newClient(t testing.TB) *feedclient.Client {
	c := feedclient.New("")
	t.Cleanup(c.Close)
	return c
}

// A cursor of another table says nothing of this one.
func TestAnotherTable(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	s.remove(t, 3)
	pool := pgtest.New(t)
	env := map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL(), "PAGE_SIZE": "10"}
	run := func(change func(*Service)) (generation int) {
		t.Helper()
		moved := thingService()
		change(moved)
		url, stop, _ := startService(t, moved, env)
		eventually(t, "it is up to date", func() bool {
			got := subscription(t, url)
			generation = got.Generation
			return !got.Standby && got.State == Fresh && got.Cursor == s.head(t).Cursor()
		})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		return generation
	}
	same := func(*Service) {}
	run(same)
	if n := run(same); n != 1 {
		t.Errorf("after a restart the generation is %d", n)
	}
	into := func(s *Service) { s.Migrations, s.Feeds = serviceNamed("new").Migrations, serviceNamed("new").Feeds }
	if n := run(into); n != 2 || rows(t, pool, "new_thing") != 24 {
		t.Errorf("in the new table are %d things, the generation is %d", rows(t, pool, "new_thing"), n)
	}
	exec(t, pool, `delete from new_thing`)
	passed := 0
	if n := run(func(s *Service) {
		s.Feeds[0] = Feed{Name: "things", URL: s.Feeds[0].URL, Schedule: "@every 1s",
			Entries: func(_ context.Context, _ *pgxpool.Pool, _ feed.Cursor, page *feed.Page) error {
				passed += len(page.Entries)
				return nil
			}}
	}); n != 3 || passed != 26 {
		t.Errorf("without a table %d entries were passed on, the generation is %d", passed, n)
	}
	if n := run(into); n != 4 || rows(t, pool, "new_thing") != 24 {
		t.Errorf("in a table once more are %d things, the generation is %d", rows(t, pool, "new_thing"), n)
	}
}
