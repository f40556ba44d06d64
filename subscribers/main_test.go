package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/subscribers/services"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A journal is what a service prints, readable while it does.
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

var listening = regexp.MustCompile(`msg=listening url=(\S+)`)

// start runs a service on the database of pool, and gives its URL when it has a copy.
func start(t *testing.T, name string, pool *pgxpool.Pool, env map[string]string) string {
	t.Helper()
	all := map[string]string{"ADDR": "127.0.0.1:0", "ACCESS": "open", "DATABASE_URL": pgtest.URL(pool)}
	maps.Copy(all, env)
	ctx, stop := context.WithCancel(t.Context())
	log, ended := new(journal), make(chan error, 1)
	go func() { ended <- run(ctx, []string{name}, all, log) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("%s ended with %v", name, err)
		}
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && len(ended) == 0; time.Sleep(5 * time.Millisecond) {
		if found := listening.FindStringSubmatch(log.String()); found != nil {
			if status, _, _ := get(t, found[1]+"/readyz", ""); status == http.StatusOK {
				return found[1]
			}
		}
	}
	t.Fatalf("%s is not ready:\n%s", name, log)
	return ""
}

func get(t rapid.TB, url, accept string) (status int, header http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
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
	return resp.StatusCode, resp.Header, string(text)
}

// ordersFeed returns the URL of a feed of these orders.
func ordersFeed(t *testing.T, orders ...order.Order) string {
	t.Helper()
	entries := make([]publish.Entry, len(orders))
	for i, o := range orders {
		entries[i] = publish.Entry{ID: o.ID, Version: o.Version, Updated: o.UpdatedAt.Time, Payload: payload(t, o)}
	}
	return serveFeed(t, order.Feed, entries...)
}

func payload(t *testing.T, entity any) []byte {
	t.Helper()
	text, err := json.Marshal(entity)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// serveFeed returns the URL of a feed of these entries.
func serveFeed(t *testing.T, name string, entries ...publish.Entry) string {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	pool := pgtest.New(t, sql.Migrations("publish"))
	if _, err := pool.Exec(t.Context(), `select feed_create($1)`, name); err != nil {
		t.Fatal(err)
	}
	log, err := publish.Open(t.Context(), pool, publish.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	err = log.InTx(t.Context(), func(tx *publish.Tx) error {
		tx.Append(name, entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := feedhttp.New(log, feedhttp.Options{Name: "Sales", PublicURL: "http://sales.example"}, feed.Description{
		Name: name, Title: name, ID: "tag:edison-cars.example,2026:" + name,
		Show: func(feed.Entry) (feed.Shown, error) { return feed.Shown{Title: "An entry"}, nil },
	})
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL + "/feeds/" + name
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Each service comes up on an empty database, which it shares with all others, copies the feed, and shows it.
func TestServices(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "all services")
	source := ordersFeed(t,
		order.Order{ID: uuid.Max, Version: 1, Status: order.Placed, PlacedAt: feed.TimeOf(noon), UpdatedAt: feed.TimeOf(noon), Lines: []order.Line{{Model: "volta", Options: []string{"heat_pump"}, Quantity: 2, UnitPriceCents: 2_797_000}}},
	)
	api := map[string]struct{ path, has string }{
		"warehouse": {"/api/parts", `{"part":"heat-pump","name":"Heat pump","on_hand":40,"reserved":2,"on_order":0,`},
		"assembly":  {"/api/builds", `"car":2,"model":"volta","options":["heat_pump"],"slot":"`},
		"dashboard": {"/api/stats", `{"revenue_cents":5594000,"currency":"EUR","orders":1,`},
		"billing":   {"/api/invoices", `[]`}, // the customer has not come
		"shipping":  {"/api/shipments", `[]`},
		"mailer":    {"/api/mails", `[{"order_id":"ffffffff-ffff-ffff-ffff-ffffffffffff","customer_id":"00000000-0000-0000-0000-000000000000","state":"skipped",`},
		"relay":     {"/api/relay", `"exchange":"orders","state":"connected",`},
	}
	feeds := map[string]string{order.Feed: source}
	for _, s := range services.All() {
		for _, f := range s.Feeds {
			if feeds[f.Name] == "" {
				feeds[f.Name] = serveFeed(t, f.Name)
			}
		}
	}
	shared := pgtest.New(t)
	for _, s := range services.All() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			env, first := map[string]string{}, s.Feeds[0].Name
			for _, f := range s.Feeds {
				env["FEED_URL_"+strings.ToUpper(f.Name)] = feeds[f.Name]
			}
			if s.Name == "relay" {
				env["AMQP_URL"] = broker(t)
			}
			url := start(t, s.Name, shared, env)
			if s.Name == "relay" { // which is ready before it has copied
				eventually(t, "it has relayed the feed", func() bool { // a broker that has just started may be slow
					resp, err := http.Post(url+"/subscriptions/orders/poll", "", nil)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					return resp.StatusCode == http.StatusOK
				})
			}
			if api, known := api[s.Name]; known {
				status, header, body := get(t, url+api.path, "*/*")
				if status != 200 || !strings.Contains(body, api.has) || header.Get("Content-Type") != "application/json; charset=utf-8" {
					t.Errorf("%d %s: %s", status, header.Get("Content-Type"), body)
				}
				if copied := header.Get("Datafeed-Copy"); !strings.HasPrefix(copied, first+`; state=fresh; as_of="20`) {
					t.Errorf("Datafeed-Copy: %s", copied)
				}
			}
			for _, path := range []string{"/", "/subscriptions"} {
				if status, _, body := get(t, url+path, "text/html"); status != 200 || !strings.Contains(body, "<strong>"+first+": fresh</strong>") || !strings.Contains(body, "Edison <strong>"+s.Title) {
					t.Errorf("%s: %d: %s", path, status, body)
				}
			}
			if status, _, body := get(t, url+"/subscriptions", "*/*"); status != 200 || !strings.Contains(body, `"feed":"`+first+`","url":"`+feeds[first]+`","schedule":"`+s.Feeds[0].Schedule+`","schedule_source":"default"`) {
				t.Errorf("%d: %s", status, body)
			}
		})
	}
}

// broker returns the URL of a private RabbitMQ.
func broker(t *testing.T) string {
	t.Helper()
	pgtest.Slow(t, "RabbitMQ")
	s, err := rabbitmq.Start(t.Context(), rabbitmq.Config{Dir: t.TempDir()})
	if errors.Is(err, rabbitmq.ErrMissing) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s.URL
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--help"}, {"-h"}} {
		var out bytes.Buffer
		err := run(t.Context(), args, nil, &out)
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		if !strings.Contains(out.String(), "follow URL prints the entries of any feed") {
			t.Errorf("%q does not speak of follow:\n%s", args, &out)
		}
		for _, s := range services.All() {
			if !regexp.MustCompile(`(?m)^` + s.Name + ` +` + s.Addr + ` +` + s.Feeds[0].Name + `\S* +` + regexp.QuoteMeta(s.Text) + `$`).MatchString(out.String()) {
				t.Errorf("%q does not list %s:\n%s", args, s.Name, &out)
			}
		}
	}
	for _, s := range services.All() {
		for _, flagged := range []string{"--help", "-h"} {
			var out bytes.Buffer
			if err := run(t.Context(), []string{s.Name, flagged}, nil, &out); err != nil {
				t.Errorf("%s %s: %v", s.Name, flagged, err)
			}
			for _, part := range []string{s.Name + ": " + s.Text, s.Addr, "FEED_URL_" + strings.ToUpper(s.Feeds[0].Name), s.Feeds[0].URL, "POLL_" + strings.ToUpper(s.Feeds[0].Name), "@every 5s", "DATABASE_URL", "PAGE_SIZE"} {
				if !strings.Contains(out.String(), part) {
					t.Errorf("%s %s does not say %q:\n%s", s.Name, flagged, part, &out)
				}
			}
		}
		if _, _, err := net.SplitHostPort(s.Addr); err != nil || !strings.HasPrefix(s.Addr, "127.0.0.1:") {
			t.Errorf("%s listens on %s, which is not loopback", s.Name, s.Addr)
		}
	}
	for _, c := range []struct {
		args []string
		env  map[string]string
		says string
	}{
		{[]string{"wharehouse"}, nil, `there is no service or command "wharehouse"; did you mean "warehouse"?`},
		{[]string{"fleet"}, nil, `there is no service or command "fleet"; without a name, subscribers lists them`},
		{[]string{"staus"}, nil, `did you mean "status"?`},
		{[]string{"--vresion"}, nil, `did you mean "--version"?`},
		{[]string{"follow"}, nil, "follow takes the URL of a feed"},
		{[]string{"check"}, nil, "check takes the URL of a feed"},
		{[]string{"prove"}, nil, "prove takes the command of a reader"},
		{[]string{"prove", "--", "no-such-reader"}, nil, "prove cannot run the reader"},
		{[]string{"check", "localhost"}, nil, "check takes the http or https URL of a feed"},
		{[]string{"check", "http://feeds.example/feeds/orders"}, map[string]string{"FEED_TOKEN": "secret"}, "--plain-hosts"},
		{[]string{"check", "https://feeds.example/feeds/orders"}, map[string]string{"FEED_TOKEN": "se cret"}, "FEED_TOKEN takes a token"},
		{[]string{"--fast"}, nil, "unknown flag: --fast; see subscribers --help"},
		{[]string{"copy"}, nil, "copy takes the URLs of feeds"},
		{[]string{"copy", "orders"}, nil, `copy takes no argument "orders"`},
		{[]string{"warehouse", "dashboard"}, nil, `warehouse takes no argument "dashboard"`},
		{[]string{"warehouse", "--fast"}, nil, "unknown flag: --fast; see subscribers warehouse --help"},
		{[]string{"warehouse"}, map[string]string{"POLL_ORDERS": "now and then"}, `POLL_ORDERS: "now and then" is not a schedule`},
		{[]string{"dashboard"}, map[string]string{"FEED_URL_ORDERS": "sales"}, "FEED_URL_ORDERS takes the http or https URL of a feed"},
		{[]string{"dashboard"}, map[string]string{"PAGE_SIZE": "0"}, "PAGE_SIZE: takes a whole number from 1 to 1000"},
	} {
		err := run(t.Context(), c.args, c.env, io.Discard)
		if !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}
