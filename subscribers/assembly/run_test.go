package assembly

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

// A journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// run runs the service until stop, and gives its address.
func run(t *testing.T, env map[string]string) (address string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log, ended := new(journal), make(chan error, 1)
	open := map[string]string{"ACCESS": "open"}
	maps.Copy(open, env)
	go func() { ended <- Service().Run(ctx, open, log) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
		if t.Failed() {
			t.Log(log)
		}
	})
	t.Cleanup(stop)
	listening := regexp.MustCompile(`msg=listening url=(\S+)`)
	eventually(t, "it listens", func() bool { return listening.MatchString(log.String()) })
	return listening.FindStringSubmatch(log.String())[1], stop
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: ", what)
		}
	}
}

func get(t *testing.T, address, accept string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
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
	return resp.StatusCode, string(text)
}

// A shop publishes orders.
type shop struct {
	*httptest.Server
	log *publish.Log
}

func newShop(t *testing.T) *shop {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	pool := pgtest.New(t, sql.Migrations("publish"))
	if _, err := pool.Exec(t.Context(), `select feed_create('orders')`); err != nil {
		t.Fatal(err)
	}
	log, err := publish.Open(t.Context(), pool, publish.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	handler := feedhttp.New(log, feedhttp.Options{Name: "Sales", PublicURL: "http://sales.example"}, feed.Description{
		Name: order.Feed, Title: "Orders", ID: "tag:edison-cars.example,2026:orders",
		Show: func(feed.Entry) (feed.Shown, error) { return feed.Shown{Title: "An order"}, nil },
	})
	s := &shop{httptest.NewServer(handler), log}
	t.Cleanup(func() {
		s.Close()
		log.Close()
	})
	return s
}

func (s *shop) publish(t *testing.T, o *order.Order) {
	t.Helper()
	o.Version++
	o.UpdatedAt = feed.TimeOf(time.Now())
	payload, err := json.Marshal(o)
	if err == nil {
		err = s.log.InTx(t.Context(), func(tx *publish.Tx) error {
			tx.Append(order.Feed, publish.Entry{ID: o.ID, Version: o.Version, Updated: o.UpdatedAt.Time, Payload: payload})
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// An order comes by feed, is built, and its builds go by feed; a restart in the middle goes on where it was.
func TestRun(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	s := newShop(t)
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	env := map[string]string{
		"ADDR": "127.0.0.1:0", "DATABASE_URL": pgtest.URL(pool), "FEED_URL_ORDERS": s.URL + "/feeds/orders", "POLL_ORDERS": "@every 1s",
		"CLOCK_SPEED": "1", "PUBLIC_URL": "https://assembly.example",
	}
	address, stop := run(t, env)
	builds := func(query string) (list []carbuild.Build) {
		t.Helper()
		status, text := get(t, address+"/api/builds"+query, "application/json")
		if err := json.Unmarshal([]byte(text), &list); err != nil || status != http.StatusOK {
			t.Fatalf("%d: %s", status, text)
		}
		return list
	}
	buy := func(quantity int) *order.Order {
		o := &order.Order{ID: uuid.New(), Status: order.Placed, CustomerID: uuid.New(), Lines: []order.Line{line(quantity, "volta", "glass_roof")}}
		s.publish(t, o)
		return o
	}
	kept, regretted := buy(2), buy(1)
	eventually(t, "all is planned", func() bool { return len(builds("?status=planned")) == 3 })
	regretted.Status = order.Cancelled
	s.publish(t, regretted)
	eventually(t, "one is cancelled", func() bool { return len(builds("?status=cancelled")) == 1 })
	id := builds("?order_id=" + kept.ID.String())[0].ID.String()
	for path, has := range map[string][]string{
		"/":             {`<strong>orders: fresh</strong>`, `<caption>Planned, next to start first`, "Volta with glass roof", `It is real time`, `<a href="/feeds/builds"`, id},
		"/builds/" + id: {`<h1>Build`, `Volta with glass roof`, "<dt>Starts</dt>", kept.ID.String(), `/feeds/builds/` + id},
	} {
		status, text := get(t, address+path, "text/html")
		for _, part := range has {
			if status != http.StatusOK || !strings.Contains(text, part) {
				t.Errorf("%s: %d, without %q:\n%s", path, status, part, text)
			}
		}
	}
	for _, path := range []string{"/builds/" + uuid.NewString(), "/builds/1"} {
		if status, text := get(t, address+path, "text/html"); status != http.StatusNotFound || !strings.Contains(text, "There is no such build.") {
			t.Errorf("%s: %d: %s", path, status, text)
		}
	}
	stop()

	env["CLOCK_SPEED"] = "10000"
	address, _ = run(t, env)
	eventually(t, "what stands is finished", func() bool { return len(builds("?status=finished")) == 2 })
	if n := len(builds("")); n != 3 {
		t.Errorf("%d builds", n)
	}
	status, text := get(t, address+"/feeds/builds.json", "*/*")
	for part, times := range map[string]int{
		`"status":"planned"`: 3, `"status":"started"`: 2, `"status":"finished"`: 2, `"status":"cancelled"`: 1,
		"https://assembly.example/builds/" + id: 3, "started: Volta with glass roof": 2,
	} {
		if n := strings.Count(text, part); status != http.StatusOK || n != times {
			t.Errorf("%d: the feed says %d times %q, not %d:\n%s", status, n, part, times, text)
		}
	}
	if status, text := get(t, address+"/feeds/builds.atom", "*/*"); status != http.StatusOK || !strings.Contains(text, `xmlns="https://edison-cars.example/ns/build"`) || !strings.Contains(text, "badge finished") {
		t.Errorf("%d: %s", status, text)
	}
	for path, has := range map[string]string{"/": "<caption>Finished last", "/builds/" + id: "<dt>Finished</dt>", "/feeds/builds": "badge finished"} {
		if status, text := get(t, address+path, "text/html"); status != http.StatusOK || !strings.Contains(text, has) {
			t.Errorf("%s: %d, without %q:\n%s", path, status, has, text)
		}
	}
}
