package copier

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) {
	exectest.Main(func(ctx context.Context, env map[string]string, stdout io.Writer) error {
		return run(ctx, env, stdout, nil)
	})
	pgtest.Main(m)
}

func numbered(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)) }

// A source publishes feeds.
type source struct {
	url  string // without the name of the feed
	down atomic.Bool
	log  *publish.Log
	pool *pgxpool.Pool
}

func newSource(t *testing.T, feeds ...string) *source {
	t.Helper()
	s := &source{pool: pgtest.New(t, sql.Migrations("publish"))}
	var described []feed.Description
	for _, name := range feeds {
		exec1(t, s.pool, `select feed_create($1)`, name)
		described = append(described, feed.Description{Name: name, Title: name, Personal: true})
	}
	var err error
	if s.log, err = publish.Open(t.Context(), s.pool, publish.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.log.Close)
	handler := feedhttp.New(s.log, feedhttp.Options{Name: "Test", PublicURL: "http://source.example"}, described...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL + "/feeds/"
	return s
}

// put publishes new versions of the entities from on, one each; "" deletes.
func (s *source) put(t *testing.T, feed string, from int, entities ...string) {
	t.Helper()
	err := s.log.InTx(t.Context(), func(tx *publish.Tx) error {
		for i, e := range entities {
			entry := publish.Entry{ID: numbered(from + i)}
			if e != "" {
				entry.Payload = []byte(e)
			}
			tx.Append(feed, entry)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A process is a copier in a process of its own.
type process struct{ *exectest.Process }

// start starts one that copies the feeds of the source into a database.
func (s *source) start(t *testing.T, db *pgxpool.Pool, tables map[string]string, feeds ...string) process {
	t.Helper()
	set := map[string]string{"ADDR": "127.0.0.1:0", "ACCESS": "open", "DATABASE_URL": pgtest.URL(db), "PAGE_SIZE": "100"}
	for _, name := range feeds {
		x := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		set["FEED_URL_"+x], set["POLL_"+x] = s.url+name, "@every 1s"
	}
	maps.Copy(set, tables)
	return process{exectest.Self(t, set)}
}

// status is what the API says of the feed.
func (p process) status(t testing.TB, feed string) (s subscribe.Status) {
	t.Helper()
	body := p.get(t, "/subscriptions")
	var all []subscribe.Status
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatal(err, body)
	}
	for _, one := range all {
		if one.Feed == feed {
			return one
		}
	}
	t.Fatalf("there is no feed %s: %s", feed, body)
	return s
}

func (p process) get(t testing.TB, path string) string {
	t.Helper()
	status, body := p.Get(t, path, "")
	if status != http.StatusOK {
		t.Fatal(status, body)
	}
	return body
}

// upToDate waits until the copy is what the source has.
func (p process) upToDate(t *testing.T, s *source, feed string) {
	t.Helper()
	p.upToDateAs(t, s, feed, feed)
}

// upToDateAs is upToDate for a subscription of another name.
func (p process) upToDateAs(t *testing.T, s *source, feed, subscription string) {
	t.Helper()
	var head int64
	if err := s.pool.QueryRow(t.Context(), `select coalesce(max(position), 0) from feed_entry where feed = $1`, feed).Scan(&head); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is up to date", func() bool {
		got := p.status(t, subscription)
		return got.Cursor.Position == head && got.State == subscribe.Fresh && got.FailingSince == nil && !got.Standby
	})
}

// says waits until polls fail with an error that has the part.
func (p process) says(t *testing.T, feed, part string) {
	t.Helper()
	eventually(t, "it says "+part, func() bool {
		got := p.status(t, feed)
		return got.LastError != nil && strings.Contains(*got.LastError, part)
	})
}

// want compares a query's result, as text, with what is expected.
func want(t *testing.T, db *pgxpool.Pool, query, expected string) {
	t.Helper()
	var got string
	if err := db.QueryRow(t.Context(), `select coalesce(string_agg(r::text, ' ' order by r::text), '') from (`+query+`) as r`).Scan(&got); err != nil {
		t.Fatal(query, err)
	}
	if got != expected {
		t.Errorf("%s: %s; want %s", query, got, expected)
	}
}

func exec1(t testing.TB, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// eventually waits up to a minute for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
