package subscribe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
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
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) {
	time.Local = time.FixedZone("elsewhere", 5*3600+1800) // so that a forgotten UTC shows
	exectest.Main(runReplica)
	if database := os.Getenv(provedReader); database != "" && len(os.Args) == 4 {
		if err := runProved(database, os.Args[1], os.Args[2], os.Args[3]); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	pgtest.Main(m)
}

var discard = slog.New(slog.DiscardHandler)

// A thing is the entity of the feed in these tests, and a row of the copy.
type thing struct {
	ID      uuid.UUID `json:"id"`
	Version int64     `json:"version"`
	Name    string    `json:"name"`
}

func numbered(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)) }

// A source is a real one, with a database of its own. It knows what it published.
type source struct {
	*httptest.Server
	pool     *pgxpool.Pool
	log      *publish.Log
	history  []publish.Entry
	versions map[uuid.UUID]int64 // of deleted things too

	mu     sync.Mutex
	engine http.Handler
	asked  []exchange
	tamper func(w http.ResponseWriter, r *http.Request, honest http.Handler) // nil means honest
}

// An exchange is a request and the status of its answer.
type exchange struct {
	query, etag string
	status      int
}

func newSource(t testing.TB) *source {
	t.Helper()
	s := &source{pool: pgtest.New(t, sql.Migrations("publish")), versions: map[uuid.UUID]int64{}}
	exec(t, s.pool, `select feed_create('things')`)
	s.open(t)
	t.Cleanup(func() { s.log.Close() })
	s.serve(t, "127.0.0.1:0")
	return s
}

// open makes it a process that has just been started.
func (s *source) open(t rapid.TB) {
	t.Helper()
	log, err := publish.Open(context.Background(), s.pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	engine := feedhttp.New(log, feedhttp.Options{Name: "Test", PublicURL: "http://source.example"}, feed.Description{
		Name: "things", Title: "Things", Text: "Things.", ID: "tag:edison-cars.example,2026:things",
		Show: func(feed.Entry) (feed.Shown, error) { return feed.Shown{Title: "A thing"}, nil },
	})
	if s.log != nil {
		s.log.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.engine = log, engine
}

// begin empties it.
func (s *source) begin(t rapid.TB) {
	t.Helper()
	exec(t, s.pool, `with gone as (delete from feed_entry) update feed set marked_position = 0`)
	s.open(t)
	s.history = nil
	clear(s.versions)
}

// serve begins to answer at addr.
func (s *source) serve(t testing.TB, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &statusWriter{ResponseWriter: w}
		s.mu.Lock()
		tamper, engine := s.tamper, s.engine
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.asked = append(s.asked, exchange{r.URL.RawQuery, r.Header.Get("If-None-Match"), seen.status})
		}()
		if tamper != nil {
			r.Header.Del("Accept-Encoding") // what is tampered with must be readable
			tamper(seen, r, engine)
		} else {
			engine.ServeHTTP(seen, r)
		}
	}))
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	t.Cleanup(s.Close)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (s *source) feedURL() string { return s.URL + "/feeds/things" }

// exchanges returns what was asked since the last call.
func (s *source) exchanges() []exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *source) setTamper(f func(w http.ResponseWriter, r *http.Request, honest http.Handler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tamper = f
}

// put publishes a new version of each of the things numbered from to to, in one transaction.
func (s *source) put(t rapid.TB, from, to int) {
	t.Helper()
	var entries []publish.Entry
	for n := from; n <= to; n++ {
		e := s.version(n)
		var err error
		if e.Payload, err = json.Marshal(thing{e.ID, e.Version, fmt.Sprintf("thing %d, %d published", n, len(s.history))}); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	s.publish(t, entries...)
}

// remove publishes that the thing is deleted.
func (s *source) remove(t rapid.TB, n int) {
	t.Helper()
	s.publish(t, s.version(n))
}

// version returns the next version of the thing, without payload.
func (s *source) version(n int) publish.Entry {
	id := numbered(n)
	s.versions[id]++
	return publish.Entry{ID: id, Version: s.versions[id], Updated: time.Date(2026, 1, 1, 0, 0, int(s.versions[id]), 0, time.UTC)}
}

func (s *source) publish(t rapid.TB, entries ...publish.Entry) {
	t.Helper()
	err := s.log.InTx(context.Background(), func(tx *publish.Tx) error {
		tx.Append("things", entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.history = append(s.history, entries...)
}

// things are what the source had at a position.
func (s *source) things(t rapid.TB, position int64) map[uuid.UUID]thing {
	t.Helper()
	things := map[uuid.UUID]thing{}
	for _, e := range s.history[:position] {
		delete(things, e.ID)
		if e.Payload != nil {
			var v thing
			if err := json.Unmarshal(e.Payload, &v); err != nil {
				t.Fatal(err)
			}
			things[e.ID] = v
		}
	}
	return things
}

// head is where the feed ends.
func (s *source) head(t rapid.TB) (head publish.Head) {
	t.Helper()
	var digest []byte
	if err := s.pool.QueryRow(context.Background(), `select position, digest from feed_head`).Scan(&head.Position, &digest); err != nil {
		t.Fatal(err)
	}
	head.Digest = feed.Digest(digest)
	return head
}

// A copier is a poller with a database of its own.
type copier struct {
	*poller
	mu      sync.Mutex
	applied []int // the number of entities of each batch
}

// thingMigrations are those of a service that copies things.
var thingMigrations = postgres.Migrations{Name: "things", FS: fstest.MapFS{"00001_thing.sql": {Data: []byte(
	"-- +goose Up\ncreate table thing (id uuid primary key, version bigint not null, name text not null);\n")}}}

func newCopier(t testing.TB, s *source) *copier {
	t.Helper()
	c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), 10)
	t.Cleanup(c.fetcher.client.Close)
	return c
}

// copier returns one for a database that may have a copy already, as after a restart. Of columns it is a pure copy. It
// replays what it copies: see walker.
func (s *source) copier(t rapid.TB, pool *pgxpool.Pool, pageSize int, columns ...string) *copier {
	t.Helper()
	c := new(copier)
	things := Feed{Name: "things", URL: s.feedURL(), Schedule: "@every 5s", Table: "thing", Columns: columns}
	if columns == nil {
		things.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			c.mu.Lock()
			c.applied = append(c.applied, len(b.Entities)+len(b.Deleted))
			c.mu.Unlock()
			return copyThings(ctx, tx, b)
		}
	}
	var err error
	if c.poller, err = newPoller(pool, Options{Name: "test", PageSize: pageSize, Logger: discard}, things); err != nil {
		t.Fatal(err)
	}
	c.replays = true
	if err := c.create(context.Background()); err != nil {
		t.Fatal(err)
	}
	return c
}

func copyThings(ctx context.Context, tx pgx.Tx, b *Batch) error {
	_, err := tx.Exec(ctx, `
		insert into thing select id, version, name from jsonb_to_recordset($1) as t (id uuid, version bigint, name text)
		on conflict (id) do update set version = excluded.version, name = excluded.name`, b.JSON())
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `delete from thing where id = any($1)`, b.Deleted)
	return err
}

// poll polls once, without waiting at the source.
func (c *copier) poll(ctx context.Context) error { return c.poller.poll(ctx, false) }

func (c *copier) mustPoll(t rapid.TB) {
	t.Helper()
	if err := c.poll(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// things are the copy.
func (c *copier) things(t rapid.TB) map[uuid.UUID]thing {
	t.Helper()
	rows, err := c.pool.Query(context.Background(), `select id, version, name from thing`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[thing])
	if err != nil {
		t.Fatal(err)
	}
	copied := map[uuid.UUID]thing{}
	for _, v := range list {
		copied[v.ID] = v
	}
	return copied
}

// stored is the progress as the database has it.
func (c *copier) stored(t rapid.TB) progress {
	t.Helper()
	at, err := c.row.load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// wantConsistent fails the test unless the copy is what the source had at the cursor. It gives the cursor.
func (c *copier) wantConsistent(t rapid.TB, s *source) feed.Cursor {
	t.Helper()
	cursor := c.stored(t).cursor
	if got, want := c.things(t), s.things(t, cursor.Position); !maps.Equal(got, want) {
		t.Fatalf("the copy at %s has %d things, the source had %d, or they differ:\ncopy   %v\nsource %v", cursor, len(got), len(want), got, want)
	}
	return cursor
}

// wantUpToDate fails the test unless the copy is what the source has, cursor included.
func (c *copier) wantUpToDate(t rapid.TB, s *source) {
	t.Helper()
	if got, want := c.wantConsistent(t, s), s.head(t).Cursor(); got != want || want.Position != int64(len(s.history)) {
		t.Fatalf("the cursor is %s, the source's feed ends at %s after %d entries", got, want, len(s.history))
	}
}

func exec(t rapid.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// eventually waits up to a minute for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// get asks and reads the answer.
func get(t testing.TB, url, accept string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}
