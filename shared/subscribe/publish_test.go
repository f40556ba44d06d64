package subscribe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/sql"
)

// An echo is what a service in these tests publishes of each thing that it copies.
type echo struct {
	ID      uuid.UUID `json:"id"`
	Version int64     `json:"version"`
	Echo    string    `json:"echo"` // the thing's name
}

var echoMigrations = postgres.Migrations{Name: "echoes", FS: fstest.MapFS{"00001_echo.sql": {Data: []byte(`-- +goose Up
create table thing (id uuid primary key, version bigint not null, name text not null);
create table echo (id uuid primary key, version bigint not null, echo text);
select feed_create('echoes');
`)}}}

// echoThings copies the things; what that changed in its echo is a new version of it.
func echoThings(ctx context.Context, tx *publish.Tx, b *Batch) error {
	if err := copyThings(ctx, tx, b); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		insert into echo as e (id, version, echo)
		select id, 1, name from jsonb_to_recordset($1) as t (id uuid, name text) union all select unnest($2::uuid[]), 1, null
		on conflict (id) do update set version = e.version + 1, echo = excluded.echo where e.echo is distinct from excluded.echo
		returning id, version, echo`, b.JSON(), b.Deleted)
	if err != nil {
		return err
	}
	changed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e publish.Entry, err error) {
		var name *string
		if err := row.Scan(&e.ID, &e.Version, &name); err != nil {
			return e, err
		}
		e.Updated = time.Unix(e.Version, 0)
		if name != nil {
			e.Payload, err = json.Marshal(echo{e.ID, e.Version, *name})
		}
		return e, err
	})
	tx.Append("echoes", changed...)
	return err
}

func describeEchoes(publicURL string) []feed.Description {
	return []feed.Description{{
		Name: "echoes", Title: "Echoes", Text: "Echoes.", ID: "tag:edison-cars.example,2026:echoes",
		Show: func(e feed.Entry) (feed.Shown, error) {
			return feed.Shown{Title: "An echo", URL: publicURL + "/echoes/" + e.ID.String()}, nil
		},
	}}
}

// echoService copies things and publishes echoes.
func echoService() *Service {
	s := thingService()
	s.Migrations, s.Publishes, s.Feeds[0].Apply = echoMigrations, describeEchoes, Publishing(echoThings)
	return s
}

func newEchoer(t testing.TB, s *source) *copier {
	t.Helper()
	return s.echoer(t, pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("publish"), echoMigrations))
}

// echoer returns a copier that publishes.
func (s *source) echoer(t testing.TB, pool *pgxpool.Pool) *copier {
	t.Helper()
	c := s.copier(t, pool, 10)
	t.Cleanup(c.publishes(t))
	return c
}

// publishes makes c publish, and gives what ends it.
func (c *copier) publishes(t rapid.TB) (end func()) {
	t.Helper()
	log, err := publish.Open(context.Background(), c.pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.log, c.Apply = log, Publishing(echoThings)
	return func() {
		log.Close()
		c.fetcher.client.Close()
	}
}

// wantEchoed fails the test unless every version of every echo is in the feed once, in its order and in step with the
// digests, and the last of each is the thing that is in the copy. It gives the number of entries.
func wantEchoed(t rapid.TB, pool *pgxpool.Pool) int64 {
	t.Helper()
	rows, err := pool.Query(context.Background(), `select position, entity_id, version, payload from feed_entry where feed = 'echoes' order by position`)
	if err != nil {
		t.Fatal(err)
	}
	newest := map[uuid.UUID]string{}
	versions := map[uuid.UUID]int64{}
	var last, position, version int64
	var id uuid.UUID
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&position, &id, &version, &payload}, func() error {
		if position != last+1 || version != versions[id]+1 {
			return fmt.Errorf("position %d, version %d of %s come after %d, %d", position, version, id, last, versions[id])
		}
		last, versions[id] = position, version
		delete(newest, id)
		if payload == nil {
			return nil
		}
		var e echo
		err := json.Unmarshal(payload, &e)
		newest[id] = e.Echo
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var head int64
	if err := pool.QueryRow(context.Background(), `select position from feed_head where name = 'echoes'`).Scan(&head); err != nil || head != last {
		t.Fatalf("the head is at %d (%v), the last entry at %d", head, err, last)
	}
	c := copier{poller: &poller{target: &target{pool: pool}}}
	things := c.things(t)
	for id, v := range things {
		if echo, there := newest[id]; !there || echo != v.Name {
			t.Errorf("the thing %q has the echo %q", v.Name, echo)
		}
	}
	if len(things) != len(newest) {
		t.Errorf("%d things, %d echoes", len(things), len(newest))
	}
	return last
}

func TestPublishing(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")

	t.Run("entries, rows and cursor go together, and come once", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newEchoer(t, s)
		c.mustPoll(t)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if n := wantEchoed(t, c.pool); n != 25 {
			t.Errorf("%d entries", n)
		}
		s.put(t, 3, 12)
		s.remove(t, 4)
		c.mustPoll(t)
		if n := wantEchoed(t, c.pool); n != 25+11 {
			t.Errorf("%d entries", n)
		}
	})

	t.Run("a bad entry leaves nothing, its neighbours everything", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newEchoer(t, s)
		exec(t, c.pool, `alter table echo add constraint banned check (echo !~ '^thing (3|14|15), 0 ')`)
		apply := c.Apply
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error { // which appends before it fails
			early := publish.Entry{ID: uuid.New(), Version: 1, Updated: time.Now(), Payload: []byte(`{}`)}
			if b.has(3) || b.has(14) || b.has(15) {
				tx.(*publish.Tx).Append("echoes", early)
			}
			return apply(ctx, tx, b)
		}
		s.put(t, 1, 25)
		c.mustPoll(t)
		c.wantRejected(t, s, `violates check constraint "banned"`, 3, 14, 15)
		if n := wantEchoed(t, c.pool); n != 22 {
			t.Errorf("%d entries", n)
		}
		c.Apply = apply
		exec(t, c.pool, `alter table echo drop constraint banned`)
		server := c.site(t, routeThings)
		retries(t, server.URL+"/subscriptions/things/rejected/retry", `{"applied":3,"rejected":0}`)
		if n := wantEchoed(t, c.pool); n != 25 {
			t.Errorf("after the retry %d entries", n)
		}
	})

	t.Run("an entry that is alone is rejected, though the log does not take again what it has of others", func(t *testing.T) {
		t.Parallel()
		fails := errors.New("no such model")
		for name, x := range map[string]struct {
			fails func(b *Batch) bool
			bad   bool
		}{
			"it alone": {func(b *Batch) bool { return b.has(5) }, true}, "everything": {func(*Batch) bool { return true }, false},
		} {
			s := newSource(t)
			c := newEchoer(t, s)
			publishes := func(ctx context.Context, tx pgx.Tx, b *Batch) error { // each version once, whatever its echo was
				for _, e := range b.Entities {
					tx.(*publish.Tx).Append("echoes", publish.Entry{ID: e.ID, Version: e.Version, Updated: e.Updated, Payload: []byte(`{}`)})
				}
				return copyThings(ctx, tx, b)
			}
			c.Apply = publishes
			s.put(t, 1, 2)
			c.mustPoll(t)
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				if x.fails(b) {
					return fails
				}
				return publishes(ctx, tx, b)
			}
			s.put(t, 5, 5)
			if err := c.poll(t.Context()); x.bad {
				if err != nil {
					t.Fatal(name, err)
				}
				c.wantRejected(t, s, "no such model", 5)
			} else if !errors.Is(err, fails) || c.stored(t).rejected > 0 {
				t.Errorf("%s: %d are rejected: %v", name, c.stored(t).rejected, err)
			}
		}
	})

	t.Run("an entry that the log refuses is rejected, alone, and the reason names what is wrong", func(t *testing.T) {
		t.Parallel()
		for rule, wrong := range map[string]func(*publish.Entry){
			"comes after version 1 of its entity": func(e *publish.Entry) { e.Version = 3 },
			"is not later than":                   func(e *publish.Entry) { e.Updated = time.Unix(1, 0) },
			"is not a JSON object":                func(e *publish.Entry) { e.Payload = []byte(`"of Ada Lovelace"`) },
			"has the UUID zero":                   func(e *publish.Entry) { e.ID = uuid.Nil },
		} {
			s := newSource(t)
			c := newEchoer(t, s)
			journal := new(journal)
			c.logger = slog.New(slog.NewTextHandler(journal, nil))
			id, apply := uuid.New(), c.Apply
			err := c.log.InTx(t.Context(), func(tx *publish.Tx) error {
				tx.Append("echoes", publish.Entry{ID: id, Version: 1, Updated: time.Unix(2, 0), Payload: []byte(`{}`)})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				if b.has(3) || b.has(14) || b.has(15) {
					e := publish.Entry{ID: id, Version: 2, Updated: time.Unix(3, 0), Payload: []byte(`{}`)}
					wrong(&e)
					tx.(*publish.Tx).Append("echoes", e)
				}
				return apply(ctx, tx, b)
			}
			s.put(t, 1, 25)
			c.mustPoll(t)
			c.wantRejected(t, s, rule, 3, 14, 15)
			if n := count(t, c.pool, `select count(*) from feed_entry where feed = 'echoes'`); n != 1+22 {
				t.Errorf("%s: %d entries", rule, n)
			}
			if text := journal.String(); !strings.Contains(text, rule) || strings.Contains(text, "Ada") {
				t.Errorf("%s: the log has\n%s", rule, text)
			}
			c.Apply = apply
			server := c.site(t, routeThings)
			retries(t, server.URL+"/subscriptions/things/rejected/retry", `{"applied":3,"rejected":0}`)
		}
	})

	t.Run("a walk publishes only what it changes", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newEchoer(t, s)
		c.mustPoll(t)
		c.resync(t)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		if n := wantEchoed(t, c.pool); n != 25 {
			t.Errorf("%d entries", n)
		}
		s.restored(t, 20)
		s.put(t, 19, 21)
		s.put(t, 30, 32)
		c.mustPoll(t)
		c.wantWalked(t, s, 2)
		if n := wantEchoed(t, c.pool); n != 25+3+4+3 { // changed, deleted, new
			t.Errorf("%d entries", n)
		}
	})

	t.Run("another writer is faster: Apply runs again", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newEchoer(t, s)
		other, err := publish.Open(t.Context(), c.pool, publish.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := c.row.set(t.Context(), "page_size = 1"); err != nil {
			t.Fatal(err)
		}
		runs, others, apply := 0, 0, c.Apply
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			if runs++; runs%2 == 1 {
				others++
				err := other.InTx(ctx, func(tx *publish.Tx) error {
					id := uuid.New()
					tx.Append("echoes", publish.Entry{ID: id, Version: 1, Updated: time.Now(), Payload: []byte(`{}`)})
					return nil
				})
				if err != nil {
					return err
				}
			}
			return apply(ctx, tx, b)
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if n := count(t, c.pool, `select count(*) from feed_entry`); n != 25+others || runs == 25 {
			t.Errorf("%d entries with those of %d others, %d runs", n, others, runs)
		}
	})

	t.Run("without Publishes it is an error that says so", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 2)
		c := newCopier(t, s)
		c.Apply = Publishing(echoThings)
		if err := c.poll(t.Context()); err == nil || !strings.Contains(err.Error(), "see Options.Log") {
			t.Errorf("%v", err)
		}
	})
}

// The connection of the commit is lost, with the packet in the server or not: in the end everything is there once.
func TestPublishingWithConnectionsLost(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	s := newSource(t)
	honest := newEchoer(t, s)
	config, cut := honest.pool.Config(), new(atomic.Int32)
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &cutConn{conn, cut}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	c := s.echoer(t, pool)
	for way := range int32(3) {
		for _, change := range []func(){
			func() { s.put(t, 1, 25) },
			func() { s.remove(t, 7); s.put(t, 3, 4) },
			func() { s.restored(t, len(s.history)-5); s.put(t, 20, 21) },
		} {
			change()
			cut.Store(way + 1)
			for deadline := time.Now().Add(time.Minute); ; {
				err := c.poll(t.Context())
				if err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
			if cut.Load() != 0 {
				t.Error("no connection was cut")
			}
			c.wantUpToDate(t, s)
			wantEchoed(t, c.pool)
		}
	}
}

// A cutConn closes when it is to send an echo: after all of it (1), half of it (2), nothing of it (3). 0: it sends.
type cutConn struct {
	net.Conn
	way *atomic.Int32
}

func (c *cutConn) Write(b []byte) (int, error) {
	way := c.way.Load()
	if way == 0 || !bytes.Contains(b, []byte(`"echo":`)) || !c.way.CompareAndSwap(way, 0) {
		return c.Conn.Write(b)
	}
	_, _ = c.Conn.Write(b[:[]int{len(b), len(b) / 2, 0}[way-1]])
	_ = c.Close()
	return 0, net.ErrClosed
}

// Whatever is published, deleted, walked and refused, and whichever of two processes goes on: the feed is what the copy
// is.
func TestPublishingProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	s := newSource(t)
	pool := newEchoer(t, s).pool
	exec(t, pool, `alter table echo add constraint banned check (echo !~ '[37] published$')`)
	rapid.Check(t, func(rt *rapid.T) {
		s.begin(rt)
		exec(rt, pool, `truncate thing, echo, feed_entry, subscription cascade; update feed set marked_position = 0`)
		both := []*copier{s.copier(rt, pool, 10), s.copier(rt, pool, 10)}
		for _, c := range both {
			defer c.publishes(rt)()
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				from := rapid.IntRange(1, 20).Draw(rt, "from")
				s.put(rt, from, from+rapid.IntRange(0, 15).Draw(rt, "more"))
			},
			"remove": func(rt *rapid.T) { s.remove(rt, rapid.IntRange(1, 35).Draw(rt, "thing")) },
			"poll": func(rt *rapid.T) {
				err := rapid.SampledFrom(both).Draw(rt, "by").poll(context.Background())
				if err != nil && !errors.As(err, new(*refusedError)) {
					rt.Fatal(err)
				}
				wantEchoed(rt, pool)
			},
			"walk": func(*rapid.T) { both[0].resync(t) },
		})
	})
}

func TestRunThatPublishes(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	service := echoService()
	var worked atomic.Bool
	service.Work = func(ctx context.Context, site *Site) error {
		if worked.Load() {
			return nil
		}
		err := site.Log.InTx(ctx, func(tx *publish.Tx) error {
			tx.Append("echoes", publish.Entry{ID: uuid.New(), Version: 1, Updated: time.Now(), Payload: []byte(`{"echo":"of work"}`)})
			return nil
		})
		worked.Store(err == nil)
		return err
	}
	var help strings.Builder
	service.Help(&help)
	if text := help.String(); !strings.Contains(text, "PUBLIC_URL") || !strings.Contains(text, "TOKENS") || !strings.Contains(text, "FEED_MAX_AGE") {
		t.Errorf("without the settings of a source:\n%s", text)
	}
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	url, stop, _ := startService(t, service, map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL(), "PUBLIC_URL": "https://echo.example/"})
	eventually(t, "all is published", func() bool { return worked.Load() && count(t, pool, `select count(*) from feed_entry`) == 26 })
	eventually(t, "and served", func() bool {
		_, text := get(t, url+"/feeds/echoes?after=0&limit=100", "application/feed+json")
		return strings.Count(text, `"echo":`) == 26 && strings.Contains(text, "https://echo.example/feeds/echoes?")
	})
	for _, path := range []string{"/subscriptions", "/feeds/echoes"} {
		if resp, text := get(t, url+path, "text/html"); resp.StatusCode != http.StatusOK || !strings.Contains(text, `<a href="/feeds/echoes"`) || !strings.Contains(text, `<a href="/subscriptions"`) {
			t.Errorf("%s does not lead to the feed and to the subscriptions:\n%s", path, text)
		}
	}
	if _, text := get(t, url+"/metrics", "*/*"); !strings.Contains(text, "feed_append_seconds") {
		t.Errorf("no metrics of the feed:\n%s", text)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	url, _, _ = startService(t, echoService(), map[string]string{
		"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL(), "ACCESS": "closed", "TOKENS": "shipping:reader:" + strings.Repeat("ab", 32),
	})
	if got := status(t, url+"/feeds/echoes"); got != http.StatusUnauthorized {
		t.Errorf("without a token: %d", got)
	}
}

// Processes of one service that are killed while they publish: every version is there once.
func TestReplicasThatPublish(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	s := newSource(t)
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("publish"), echoMigrations)
	env := map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL(), "PAGE_SIZE": "5", replicaPublishes: "yes"}
	s.put(t, 1, 25)
	serving := exectest.Self(t, env)
	has(t, pool, 25)
	for n := 100; n <= 300; n += 100 {
		next := exectest.Self(t, env)
		s.put(t, n-50, n+100)
		eventually(t, "it is in the middle", func() bool { return count(t, pool, `select count(*) from feed_entry`) > n-40 })
		signal(t, serving, syscall.SIGKILL)
		serving = next
		has(t, pool, n+76)
	}
	wantEchoed(t, pool)
}
