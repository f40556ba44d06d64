package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

// A source publishes one feed, at a URL that stays when its database becomes another.
type source struct {
	feed, url string
	handler   atomic.Pointer[http.Handler]
	log       *publish.Log
	versions  map[uuid.UUID]int64
}

func newSource(t *testing.T, name string) *source {
	t.Helper()
	s := &source{feed: name}
	s.startAnew(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.handler.Load()).ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	s.url = server.URL + "/feeds/" + name
	return s
}

// startAnew returns the source an empty database: another history.
func (s *source) startAnew(t *testing.T) {
	t.Helper()
	pool, logger := pgtest.New(t, sql.Migrations("publish")), slog.New(slog.DiscardHandler)
	if _, err := pool.Exec(t.Context(), `select feed_create($1)`, s.feed); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.log, err = publish.Open(t.Context(), pool, publish.Options{Logger: logger}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.log.Close)
	var views []feed.DeclaredView
	if s.feed == customer.Feed {
		views = customer.Views
	}
	var handler http.Handler = feedhttp.New(s.log, feedhttp.Options{Name: "Source", PublicURL: "http://source.example"}, feed.Description{
		Views: views,
		Name:  s.feed, Title: s.feed, ID: "tag:edison-cars.example,2026:" + s.feed, Personal: s.feed == customer.Feed,
		Show: func(feed.Entry) (feed.Shown, error) { return feed.Shown{Title: "An entry"}, nil },
	})
	s.handler.Store(&handler)
	s.versions = map[uuid.UUID]int64{}
}

// put publishes the next version of an entity; nil erases it.
func (s *source) put(t *testing.T, id uuid.UUID, entity map[string]any) {
	t.Helper()
	err := s.log.InTx(t.Context(), func(tx *publish.Tx) error {
		version := s.versions[id] + 1
		updated := time.Date(2026, 1, 1, 0, 0, int(version), 0, time.UTC)
		if entity == nil {
			tx.Erase(s.feed, id, version, updated)
			return nil
		}
		entity["id"], entity["version"] = id, version
		payload, err := json.Marshal(entity)
		tx.Append(s.feed, publish.Entry{ID: id, Version: version, Updated: updated, Payload: payload})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.versions[id]++
}

// ask does something at a running service: poll, resync ... of a feed.
func ask(t *testing.T, service, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, service+"/subscriptions/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode >= 300 {
		t.Fatalf("%s: %d: %s", path, resp.StatusCode, body)
	}
}

// copied polls each feed until there is nothing left to copy.
func copied(t *testing.T, service string, feeds ...*source) {
	t.Helper()
	for _, s := range feeds {
		ask(t, service, s.feed+"/poll")
	}
}

// answer reads the JSON at a URL.
func answer[T any](t *testing.T, url string) (v T) {
	t.Helper()
	status, _, body := get(t, url, "application/json")
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d: %s", url, status, body)
	}
	return v
}

// eventually waits for a condition, up to a minute.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// where finds a text in a database: the columns of text, JSON and bytes that hold it.
func where(t *testing.T, pool *pgxpool.Pool, text string) (columns []string) {
	t.Helper()
	ctx := context.Background()
	rows, err := pool.Query(ctx, `
		select table_name, column_name, data_type from information_schema.columns
		 where table_schema = 'public' and data_type in ('text', 'character varying', 'json', 'jsonb', 'bytea') order by 1, 2`)
	if err != nil {
		t.Fatal(err)
	}
	type column struct{ Table, Name, Type string }
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil || len(all) < 10 {
		t.Fatalf("%d columns: %v", len(all), err)
	}
	for _, c := range all {
		holds := `position($1 in ` + pgx.Identifier{c.Name}.Sanitize() + `::text) > 0`
		if c.Type == "bytea" {
			holds = `position(convert_to($1, 'UTF8') in ` + pgx.Identifier{c.Name}.Sanitize() + `) > 0`
		}
		var found bool
		if err := pool.QueryRow(ctx, `select exists (select from `+pgx.Identifier{c.Table}.Sanitize()+` where `+holds+`)`, text).Scan(&found); err != nil {
			t.Fatal(err)
		}
		if found {
			columns = append(columns, strings.Join([]string{c.Table, c.Name}, "."))
		}
	}
	return columns
}
