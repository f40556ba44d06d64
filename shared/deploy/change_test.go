package deploy_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

// The versions of a contract in the change of PROTOCOL.md, and what two readers need of it.
type (
	sold struct {
		ID       uuid.UUID `json:"id"`
		Version  int64     `json:"version" check:"1.."`
		Currency string    `json:"currency" check:"3..3"`
	}
	added struct {
		ID       uuid.UUID `json:"id"`
		Version  int64     `json:"version" check:"1.."`
		Currency string    `json:"currency" check:"3..3"`
		Channel  *string   `json:"channel" check:"1..9"`
	}
	deprecated struct {
		ID       uuid.UUID `json:"id"`
		Version  int64     `json:"version" check:"1.."`
		Currency string    `json:"currency" check:"3..3" deprecated:"true"`
		Channel  *string   `json:"channel" check:"1..9"`
	}
	removed struct {
		ID      uuid.UUID `json:"id"`
		Version int64     `json:"version" check:"1.."`
		Channel *string   `json:"channel" check:"1..9"`
	}
	needsCurrency struct {
		Currency string `json:"currency"`
	}
	needsChannel struct {
		Channel *string `json:"channel"`
	}
)

// The change of PROTOCOL.md, step by step.
func TestChangeOfAContract(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("publish"))
	if _, err := pool.Exec(t.Context(), `select feed_create('sales')`); err != nil {
		t.Fatal(err)
	}
	log, err := publish.Open(t.Context(), pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var handler atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.Load().(http.Handler).ServeHTTP(w, r) }))
	defer server.Close()
	release := func(c *contract.Contract) {
		handler.Store(http.Handler(feedhttp.New(log, feedhttp.Options{Name: "Sales", PublicURL: server.URL},
			feed.Description{Name: "sales", Title: "Sales", Text: "Sales.", Schema: c.Schema("sale")})))
	}
	id, version := uuid.New(), int64(0)
	put := func(entity map[string]any) {
		t.Helper()
		version++
		entity["id"], entity["version"] = id, version
		payload, err := json.Marshal(entity)
		if err == nil {
			err = log.InTx(t.Context(), func(tx *publish.Tx) error {
				tx.Append("sales", publish.Entry{ID: id, Version: version, Payload: payload})
				return nil
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	release(contract.Of[sold]())
	put(map[string]any{"currency": "EUR"})
	old := newReader(t, server.URL, contract.PartOf[needsCurrency](contract.Of[sold]()), "currency")
	young := newReader(t, server.URL, contract.PartOf[needsChannel](contract.Of[added]()), "channel")
	old.polls(t, "EUR")
	young.pauses(t, "")
	release(contract.Of[added]()) // add
	young.polls(t, "")
	old.polls(t, "EUR")
	put(map[string]any{"currency": "EUR", "channel": "web"}) // fill
	young.polls(t, "web")
	old.polls(t, "EUR")
	release(contract.Of[deprecated]())
	put(map[string]any{"currency": "SEK", "channel": "shop"})
	young.polls(t, "shop")
	old.polls(t, "SEK")
	release(contract.Of[removed]())
	put(map[string]any{"channel": "phone"})
	young.polls(t, "phone")
	old.pauses(t, "SEK")
}

// A reader is a subscriber with a column.
type reader struct {
	pool   *pgxpool.Pool
	of     *subscribe.Subscription
	column string
}

func newReader(t *testing.T, source string, part *contract.Part, column string) *reader {
	t.Helper()
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	if _, err := pool.Exec(t.Context(), `create table sale (id uuid primary key, version bigint not null, `+column+` text)`); err != nil {
		t.Fatal(err)
	}
	s, err := subscribe.New(t.Context(), pool, subscribe.Options{Name: "reader"}, subscribe.Feed{
		Name: "sales", URL: source + "/feeds/sales", Schedule: "@yearly", Table: "sale", Columns: []string{column}, Check: part.Check, Needs: part.Needs,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return &reader{pool, s.Subscription("sales"), column}
}

func (r *reader) has(t *testing.T) (text string) {
	t.Helper()
	if err := r.pool.QueryRow(t.Context(), `select coalesce(min(`+r.column+`), '') from sale`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func (r *reader) polls(t *testing.T, want string) {
	t.Helper()
	if err := r.of.Poll(t.Context()); err != nil {
		t.Errorf("%s: %v", r.column, err)
	}
	if got := r.has(t); got != want {
		t.Errorf("%s is %q, want %q", r.column, got, want)
	}
	if n := r.of.Status().RejectedEntries; n > 0 {
		t.Errorf("%d entries were rejected", n)
	}
}

func (r *reader) pauses(t *testing.T, want string) {
	t.Helper()
	if err := r.of.Poll(t.Context()); !errors.Is(err, subscribe.ErrIncomplete) {
		t.Errorf("the schema lacks %s: %v", r.column, err)
	}
	if got := r.has(t); got != want {
		t.Errorf("%s is %q, want %q", r.column, got, want)
	}
	if n := r.of.Status().RejectedEntries; n > 0 {
		t.Errorf("%d entries were rejected", n)
	}
}
