package relay

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

func numbered(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)) }

// A source publishes one feed. It knows what it published.
type source struct {
	name, url string
	history   []publish.Entry
	versions  map[int]int64
	log       *publish.Log

	mu     sync.Mutex
	engine http.Handler
}

func newSource(t *testing.T, name string) *source {
	t.Helper()
	s := &source{name: name}
	s.renew(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		engine := s.engine
		s.mu.Unlock()
		engine.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL + "/feeds/" + name
	return s
}

// renew makes it begin another history.
func (s *source) renew(t *testing.T) {
	t.Helper()
	logger, pool := slog.New(slog.DiscardHandler), pgtest.New(t, sql.Migrations("publish"))
	exec1(t, pool, `select feed_create($1)`, s.name)
	log, err := publish.Open(t.Context(), pool, publish.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	engine := feedhttp.New(log, feedhttp.Options{Name: "Test", PublicURL: "http://source.example"}, feed.Description{
		Name: s.name, Title: "Things", ID: "tag:edison-cars.example,2026:things",
		Show: func(feed.Entry) (feed.Shown, error) { return feed.Shown{Title: "A thing"}, nil },
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.engine, s.history, s.versions = log, engine, nil, map[int]int64{}
}

// put publishes a new version of each of the things from and to; size is of its text.
func (s *source) put(t testing.TB, from, to, size int) {
	t.Helper()
	var entries []publish.Entry
	for n := from; n <= to; n++ {
		e := s.version(n)
		e.Payload = fmt.Appendf(nil, `{"id":"%s","version":%d,"name":"thing %d, %d","text":"%s"}`, e.ID, e.Version, n, len(s.history), strings.Repeat("x", size))
		entries = append(entries, e)
	}
	s.publish(t, entries...)
}

func (s *source) remove(t testing.TB, n int) {
	t.Helper()
	s.publish(t, s.version(n))
}

func (s *source) version(n int) publish.Entry {
	s.versions[n]++
	return publish.Entry{ID: numbered(n), Version: s.versions[n], Updated: time.Date(2026, 1, 1, 0, 0, int(s.versions[n]), 0, time.UTC)}
}

func (s *source) publish(t testing.TB, entries ...publish.Entry) {
	t.Helper()
	err := s.log.InTx(context.Background(), func(tx *publish.Tx) error {
		tx.Append(s.name, entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.history = append(s.history, entries...)
}

func exec1(t testing.TB, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func newDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("relay"))
}
