package sales

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/mmcdole/gofeed"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/web"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A shop is a running sales app with a database of its own.
type shop struct {
	*httptest.Server
	pool   *pgxpool.Pool
	buyers *buyer.Side
	stop   func() (log string)
}

func open(t *testing.T) *shop {
	t.Helper()
	return openWith(t, parsed(t, nil))
}

// openWith returns the app at the address that the server gets, unless the settings name another.
func openWith(t *testing.T, settings Settings) *shop {
	t.Helper()
	return openOn(t, settings, pgtest.New(t, Migrations()...))
}

func openOn(t *testing.T, settings Settings, pool *pgxpool.Pool) *shop {
	t.Helper()
	logged := new(bytes.Buffer)
	logger := daemon.Logger(logged, slog.LevelInfo) // it writes a line at a time
	log, err := publish.Open(t.Context(), pool, publish.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	settings.PublicURL = cmp.Or(settings.PublicURL, web.Site("http://"+server.Listener.Addr().String()))
	settings.CustomersURL = cmp.Or(settings.CustomersURL, "http://customers.example")
	settings.Buyer.BuyerKey = cmp.Or(settings.Buyer.BuyerKey, buyerKey)
	buyers, err := buyer.New(buyer.Sales, settings.CustomersURL, settings.Buyer, "", pool)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = handlerOf(t, settings, pool, log, logger)
	server.Start()
	stop := sync.OnceValue(func() string {
		server.Close()
		log.Close()
		return logged.String()
	})
	t.Cleanup(func() { t.Log(stop()) })
	return &shop{server, pool, buyers, stop}
}

const buyerKey = "a-key-of-buyers-that-tests-alone-have"

// as returns the header of a customer's token.
func (s *shop) as(t *testing.T, customer string) []string {
	t.Helper()
	token, err := s.buyers.Token(buyer.Buyer{Customer: uuid.MustParse(customer)})
	if err != nil {
		t.Fatal(err)
	}
	return []string{"Authorization", "Bearer " + token}
}

var (
	nobody   = []string{"Authorization", ""}
	operator = []string{"Authorization", "", "X-Access", "open"}
)

// do sends a request with headers given as name, value, name, value ... With neither Authorization nor Cookie it is the
// test's customer's.
func (s *shop) do(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if strings.HasPrefix(path, "/orders") && req.Header["Authorization"] == nil && req.Header["Cookie"] == nil {
		as := s.as(t, customer)
		req.Header.Set(as[0], as[1])
	}
	if req.Header.Get("Authorization") == "" {
		req.Header.Del("Authorization")
		asOperator(req)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
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

func exec(t *testing.T, s *shop, sql string) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func (s *shop) buy(t *testing.T, body string, header ...string) (*http.Response, order.Order) {
	t.Helper()
	resp, text := s.do(t, "POST", "/orders", body, append([]string{"Content-Type", "application/json"}, header...)...)
	var o order.Order
	if err := json.Unmarshal([]byte(text), &o); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s (%v)", resp.StatusCode, text, err)
	}
	return resp, o
}

// entries replays the orders feed. Every entry is as the contract says.
func (s *shop) entries(t *testing.T) []feed.Entry {
	t.Helper()
	answer, err := feedclient.New("").Get(t.Context(), feedclient.Request{URL: s.URL + "/feeds/orders", Limit: feed.MaxPageSize})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range answer.Page.Entries {
		if err := order.Check(e); err != nil {
			t.Errorf("%s: %v", e.Entity, err)
		}
	}
	return answer.Page.Entries
}

const customer = "018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11"

const twoOhms = `{"customer_id":"` + customer + `","lines":[{"model":"ohm","options":["tow_bar","heat_pump"],"quantity":2}]}`

func TestModels(t *testing.T) {
	t.Parallel()
	s := open(t)
	_, body := s.do(t, "GET", "/models", "")
	var models []struct {
		Model, Name string
		PriceCents  int64 `json:"price_cents"`
		Options     []struct {
			Option, Name string
			PriceCents   int64 `json:"price_cents"`
		}
	}
	if err := json.Unmarshal([]byte(body), &models); err != nil || len(models) < 3 {
		t.Fatalf("%s (%v)", body, err)
	}
	seen := map[string]bool{}
	for _, m := range models {
		if seen[m.Model] || m.Model == "" || m.Name == "" || m.PriceCents <= 0 || len(m.Options) == 0 {
			t.Errorf("model %+v", m)
		}
		seen[m.Model] = true
		for _, o := range m.Options {
			if o.Option == "" || o.Name == "" || o.PriceCents <= 0 {
				t.Errorf("option %+v of %s", o, m.Model)
			}
		}
	}
	if _, page := s.do(t, "GET", "/", "", "Accept", "text/html"); strings.Count(page, `action="/review"`) != len(models) {
		t.Error("the storefront has not one form per model")
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	s := open(t)
	resp, o := s.buy(t, twoOhms)
	if resp.Header.Get("Location") != "/orders/"+o.ID.String() || o.ID.Version() != 7 || o.Version != 1 || o.Status != order.Placed {
		t.Errorf("Location %s of %+v", resp.Header.Get("Location"), o)
	}
	if o.Lines[0].UnitPriceCents != 4_990_000+98_000+89_000 || o.TotalCents != 2*o.Lines[0].UnitPriceCents || o.Currency != "EUR" {
		t.Errorf("price of %+v", o)
	}
	got, body := s.do(t, "GET", "/orders/"+o.ID.String(), "")
	entries := s.entries(t)
	if got.StatusCode != 200 || got.Header.Get("ETag") != `"1"` || len(entries) != 1 || strings.TrimSpace(body) != string(entries[0].Entity) || entries[0].ID != o.ID {
		t.Errorf("GET of the order: %d %s\non the feed: %+v", got.StatusCode, body, entries)
	}
	for _, tag := range []string{`"1"`, `W/"1"`, `*`, `"1-gzip"`, `"1;gzip"`, `W/"1-zstd"`} {
		if resp, body := s.do(t, "GET", "/orders/"+o.ID.String(), "", "If-None-Match", tag); resp.StatusCode != 304 || body != "" {
			t.Errorf("If-None-Match: %s: %d %s", tag, resp.StatusCode, body)
		}
	}
	for _, path := range []string{"/orders/" + uuid.NewString(), "/orders/none", "/orders/" + strings.ReplaceAll(o.ID.String(), "-", "")} {
		if resp, _ := s.do(t, "GET", path, ""); resp.StatusCode != 404 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	t.Run("by the storefront's form", func(t *testing.T) {
		form := url.Values{"model": {"volta"}, "options": {"heat_pump", "glass_roof"}, "quantity": {"1"}, "idempotency_key": {"form-1"}}.Encode()
		send := func(cookie string) (*http.Response, string) {
			return s.do(t, "POST", "/orders", form, "Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html", "Cookie", cookie)
		}
		front, _ := s.do(t, "GET", "/", "", "Accept", "text/html")
		cookies := front.Cookies()
		if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode || front.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("cookies %v, %v", cookies, front.Header)
		}
		cookie := cookies[0].Name + "=" + cookies[0].Value
		resp, _ := send(cookie)
		at := resp.Header.Get("Location")
		if resp.StatusCode != 303 || !strings.HasPrefix(at, "/orders/") {
			t.Fatalf("%d at %s", resp.StatusCode, at)
		}
		if got, page := s.do(t, "GET", at, "", "Accept", "text/html", "Cookie", cookie); got.StatusCode != 200 || !strings.Contains(page, "Edison Volta") || !strings.Contains(page, "Thank you") {
			t.Errorf("%d %s", got.StatusCode, page)
		}
		again, _ := send(cookie)
		if again.StatusCode != 303 || again.Header.Get("Location") != resp.Header.Get("Location") || len(again.Cookies()) != 0 {
			t.Errorf("sent twice it is %d at %s, first at %s", again.StatusCode, again.Header.Get("Location"), resp.Header.Get("Location"))
		}
	})
}

func TestPlaceRefuses(t *testing.T) {
	t.Parallel()
	s := open(t)
	line := func(l string) string { return `{"customer_id":"` + customer + `","lines":[` + l + `]}` }
	for _, x := range []struct {
		name, contentType, body string
		status                  int
		says                    string
	}{
		{"a customer without an id", "application/json", strings.Replace(twoOhms, customer, "", 1), 422, `"customer_id"`},
		{"a customer that is no UUID", "application/json", strings.Replace(twoOhms, customer, "42", 1), 422, `"customer_id"`},
		{"no lines", "application/json", line(""), 422, `"lines"`},
		{"too many lines", "application/json", line(strings.Repeat(`{"model":"ohm","quantity":1},`, 20) + `{"model":"ohm","quantity":1}`), 422, `"lines"`},
		{"a model that is not for sale", "application/json", line(`{"model":"zeppelin","quantity":1}`), 422, `"lines[0].model"`},
		{"an option of another model", "application/json", line(`{"model":"volta","options":["tow_bar"],"quantity":1}`), 422, `"lines[0].options"`},
		{"an option twice", "application/json", line(`{"model":"ohm","options":["tow_bar","tow_bar"],"quantity":1}`), 422, "twice"},
		{"very many options", "application/json", line(`{"model":"ohm","options":["x"` + strings.Repeat(`,""`, 300_000) + `],"quantity":1}`), 422, `"lines[0].options"`},
		{"no car", "application/json", line(`{"model":"ohm","quantity":0}`), 422, `"lines[0].quantity"`},
		{"too many cars", "application/json", line(`{"model":"ohm","quantity":51}`), 422, `"lines[0].quantity"`},
		{"half a car", "application/json", line(`{"model":"ohm","quantity":0.5}`), 422, "quantity"},
		{"a price of the client's", "application/json", line(`{"model":"ohm","quantity":1,"unit_price_cents":1}`), 422, "unit_price_cents"},
		{"a field twice", "application/json", line(`{"model":"ohm","quantity":1,"quantity":50}`), 422, "twice"},
		{"a field in two spellings", "application/json", line(`{"model":"ohm","quantity":1,"QUANTITY":50}`), 422, "not known"},
		{"a UUID in another form", "application/json", strings.Replace(twoOhms, customer, "urn:uuid:"+customer, 1), 422, `"customer_id"`},
		{"no JSON", "application/json", `model=ohm`, 400, "not JSON"},
		{"two orders", "application/json", twoOhms + twoOhms, 400, "after top-level value"},
		{"nothing", "application/json", ``, 400, "empty"},
		{"another type", "text/plain", twoOhms, 415, "application/json"},
		{"a form without a model", "application/x-www-form-urlencoded", "quantity=1", 422, `"lines[0].model"`},
		{"a form with a broken quantity", "application/x-www-form-urlencoded", "model=ohm&quantity=many", 422, `"lines[0].quantity"`},
		{"a body too large", "application/json", line(`{"model":"` + strings.Repeat("x", 1<<20) + `","quantity":1}`), 413, "bytes"},
	} {
		t.Run(x.name, func(t *testing.T) {
			resp, body := s.do(t, "POST", "/orders", x.body, "Content-Type", x.contentType)
			if resp.StatusCode != x.status || !strings.Contains(body, x.says) || resp.Header.Get("Content-Type") != feed.TypeProblem {
				t.Errorf("%d %s %.1000s, want %d with %s", resp.StatusCode, resp.Header.Get("Content-Type"), body, x.status, x.says)
			}
			if len(body) > 4096 { // many could be held at once
				t.Errorf("the answer has %d bytes", len(body))
			}
		})
	}
	if entries := s.entries(t); len(entries) != 0 {
		t.Errorf("%d entries on the feed", len(entries))
	}
	var orders int
	if err := s.pool.QueryRow(t.Context(), `select count(*) from orders`).Scan(&orders); err != nil || orders != 0 {
		t.Errorf("%d orders, %v", orders, err)
	}
}

// A key that came while the clock of the database was behind is new.
func TestIdempotencyKeyOfAWrongClock(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, Migrations()...)
	pgtest.SetClock(t, pool, -8*24*time.Hour, "idempotency_key", "created_at")
	s := openOn(t, parsed(t, nil), pool)
	s.buy(t, twoOhms, "Idempotency-Key", "a")
	var age time.Duration
	if err := pool.QueryRow(t.Context(), `select pg_catalog.now() - created_at from idempotency_key`).Scan(&age); err != nil || age > time.Hour {
		t.Errorf("it is %v old, %v", age, err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := open(t)
	_, first := s.buy(t, twoOhms, "Idempotency-Key", "a")
	if _, again := s.buy(t, twoOhms, "Idempotency-Key", "a"); again.ID != first.ID {
		t.Errorf("the repeat is order %s, the first was %s", again.ID, first.ID)
	}
	if _, body := s.do(t, "POST", "/orders/"+first.ID.String()+"/cancel", ""); !strings.Contains(body, `"cancelled"`) {
		t.Error(body)
	}
	if _, again := s.buy(t, twoOhms, "Idempotency-Key", "a"); again.ID != first.ID || again.Status != order.Placed {
		t.Errorf("the first answer again is %+v", again)
	}
	if _, other := s.buy(t, twoOhms, "Idempotency-Key", "b"); other.ID == first.ID {
		t.Error("another key is the same order")
	}
	two, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/orders", strings.NewReader(twoOhms))
	if err != nil {
		t.Fatal(err)
	}
	two.Header = http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"d", "e"}}
	asOperator(two)
	if resp, err := http.DefaultTransport.RoundTrip(two); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("with two keys: %v, %v", resp, err)
	}
	resp, body := s.do(t, "POST", "/orders", strings.Replace(twoOhms, `"quantity":2`, `"quantity":3`, 1), "Content-Type", "application/json", "Idempotency-Key", "a")
	if resp.StatusCode != 422 || !strings.Contains(body, "Idempotency-Key") {
		t.Errorf("another order under the same key: %d %s", resp.StatusCode, body)
	}
	for _, key := range []string{strings.Repeat("k", 256), "\xff", "ключ"} {
		if resp, _ := s.do(t, "POST", "/orders", twoOhms, "Content-Type", "application/json", "Idempotency-Key", key); resp.StatusCode != 400 {
			t.Errorf("the key %.10q: %d", key, resp.StatusCode)
		}
	}
	same := strings.NewReplacer(`"tow_bar","heat_pump"`, `"heat_pump", "tow_bar"`, customer, strings.ToUpper(customer)).Replace(twoOhms)
	if _, again := s.buy(t, same, "Idempotency-Key", "a"); again.ID != first.ID {
		t.Error("the same order in other words is another one")
	}
	exec(t, s, `update idempotency_key set answer = convert_to(replace(convert_from(answer, 'UTF8'), 'ohm', 'edsel'), 'UTF8') where key = encode(sha256('b'), 'hex')`)
	if _, again := s.buy(t, twoOhms, "Idempotency-Key", "b"); again.Lines[0].Model != "edsel" {
		t.Error("the first answer comes from the catalogue of today")
	}
	t.Run("many at once", func(t *testing.T) {
		before := len(s.entries(t))
		var all sync.WaitGroup
		ids := make([]uuid.UUID, 16)
		for i := range ids {
			all.Go(func() {
				_, o := s.buy(t, twoOhms, "Idempotency-Key", "c")
				ids[i] = o.ID
			})
		}
		all.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("orders %s and %s under one key", id, ids[0])
			}
		}
		if n := len(s.entries(t)) - before; n != 1 {
			t.Errorf("%d entries for one order", n)
		}
	})
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := open(t)
	_, o := s.buy(t, twoOhms)
	path := "/orders/" + o.ID.String() + "/cancel"
	cancel := func(header ...string) (*http.Response, order.Order) {
		resp, body := s.do(t, "POST", path, "", header...)
		var o order.Order
		if err := json.Unmarshal([]byte(body), &o); err != nil && resp.StatusCode == 200 {
			t.Error(body, err)
		}
		return resp, o
	}
	if resp, _ := cancel("If-Match", `"2"`); resp.StatusCode != 412 {
		t.Errorf("against another version: %d", resp.StatusCode)
	}
	resp, got := cancel("If-Match", `"7", "1"`)
	if resp.StatusCode != 200 || got.Status != order.Cancelled || got.Version != 2 || !got.UpdatedAt.After(o.UpdatedAt.Time) || resp.Header.Get("ETag") != `"2"` {
		t.Errorf("%d %+v", resp.StatusCode, got)
	}
	for _, proxied := range []string{`"2-gzip"`, `"2;gzip"`, `W/"2"`, `W/"2-br"`} {
		if resp, _ := cancel("If-Match", proxied); resp.StatusCode != 200 {
			t.Errorf("with its tag as a proxy made it, %s: %d", proxied, resp.StatusCode)
		}
	}
	for _, other := range []string{`"1-gzip"`, `"22-gzip"`, `W/"1"`} {
		if resp, _ := cancel("If-Match", other); resp.StatusCode != 412 {
			t.Errorf("with another one, %s: %d", other, resp.StatusCode)
		}
	}
	if resp, again := cancel(); resp.StatusCode != 200 || again.Version != 2 {
		t.Errorf("the second time: %d %+v", resp.StatusCode, again)
	}
	// Sales knows nothing of what became of the cars: the page says what is true of all.
	resp, page := s.do(t, "GET", "/orders/"+o.ID.String(), "", "Accept", "text/html")
	if resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("Back shows the order after the sign-out: %v", resp.Header)
	}
	if !strings.Contains(page, "A car that has left is credited when it has come back.") ||
		strings.Contains(page, "nothing to pay") || strings.Contains(page, "Nothing will be built") {
		t.Errorf("the page of the cancelled order: %s", page)
	}
	if resp, _ := s.do(t, "POST", "/orders/"+uuid.NewString()+"/cancel", ""); resp.StatusCode != 404 {
		t.Errorf("an order that is not there: %d", resp.StatusCode)
	}
	t.Run("with its version in a second field", func(t *testing.T) {
		_, o := s.buy(t, twoOhms)
		req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/orders/"+o.ID.String()+"/cancel", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["If-Match"] = []string{`"7"`, `"1"`}
		as := s.as(t, customer)
		req.Header.Set(as[0], as[1])
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		_ = resp.Body.Close()
	})
	t.Run("many at once", func(t *testing.T) {
		_, o := s.buy(t, twoOhms)
		path = "/orders/" + o.ID.String() + "/cancel"
		before := len(s.entries(t))
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				if resp, got := cancel(); resp.StatusCode != 200 || got.Version != 2 {
					t.Errorf("%d %+v", resp.StatusCode, got)
				}
			})
		}
		all.Wait()
		if n := len(s.entries(t)) - before; n != 1 {
			t.Errorf("%d entries for one cancellation", n)
		}
	})
}

func TestFeedInWords(t *testing.T) {
	t.Parallel()
	s := open(t)
	_, o := s.buy(t, twoOhms)
	for _, suffix := range []string{".json", ".atom"} {
		_, body := s.do(t, "GET", "/feeds/orders"+suffix, "")
		f, err := gofeed.NewParser().ParseString(body)
		if err != nil || len(f.Items) != 1 {
			t.Fatal(body, err)
		}
		item := f.Items[0]
		want := "Order " + o.ID.String()[28:] + " placed: 2 Edison Ohm"
		if item.Title != want || item.GUID != o.ID.URN() || item.Link != s.URL+"/orders/"+o.ID.String() || !strings.Contains(item.Content, "€51,770.00") {
			t.Errorf("%s: %+v", suffix, item)
		}
	}
	_, atom := s.do(t, "GET", "/feeds/orders.atom", "")
	if want := fmt.Sprintf("<unit_price_cents>%d</unit_price_cents>", o.Lines[0].UnitPriceCents); !strings.Contains(atom, `<order xmlns="https://edison-cars.example/ns/order"`) || !strings.Contains(atom, want) {
		t.Error("the order is not in the Atom entry: ", atom)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	s := open(t)
	for range 2 { // without and with an order
		for _, path := range []string{"/", "/orders", "/feeds", "/feeds/orders", "/feeds/orders?after=0"} {
			resp, body := s.do(t, "GET", path, "", "Accept", "text/html")
			if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !strings.Contains(body, "</html>") {
				t.Errorf("%s: %d %s", path, resp.StatusCode, body)
			}
		}
		_, o := s.buy(t, twoOhms)
		if resp, body := s.do(t, "GET", "/orders/"+o.ID.String(), "", "Accept", "text/html"); resp.StatusCode != 200 || !strings.Contains(body, "Request cancellation") {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if resp, _ := s.do(t, "GET", path, ""); resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	s.pool.Close()
	if resp, _ := s.do(t, "GET", "/readyz", ""); resp.StatusCode != 503 {
		t.Errorf("/readyz without a database: %d", resp.StatusCode)
	}
}

// handlerOf returns what answers the app's requests. The settings have a PublicURL.
func handlerOf(t *testing.T, settings Settings, pool *pgxpool.Pool, log *publish.Log, logger *slog.Logger) http.Handler {
	t.Helper()
	r, err := service.NewRouter(shell, settings.Settings, pool, logger)
	if err != nil {
		t.Fatal(err)
	}
	if err := Route(r, log, settings); err != nil {
		t.Fatal(err)
	}
	return r.Engine
}

// Whether the shop is ready is found out without a lock on what each order changes.
func TestReadyLocksNoRow(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.buy(t, `{"customer_id":"018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11","lines":[{"model":"volta","options":[],"quantity":1}]}`)
	const lastLock = `select string_agg(name || ' ' || xmax, ', ' order by name) from feed` // by a transaction that had to write that
	var before, after string
	err := s.pool.QueryRow(t.Context(), lastLock).Scan(&before)
	if resp, body := s.do(t, "GET", "/readyz", ""); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if err == nil {
		err = s.pool.QueryRow(t.Context(), lastLock).Scan(&after)
	}
	if err != nil || before != after {
		t.Errorf("a head was locked: %s, then %s: %v", before, after, err)
	}
}

// An order that is not there while the database is restored in part is not said to be none.
func TestRestoredInPart(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	s := open(t)
	_, o := s.buy(t, `{"customer_id":"018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11","lines":[{"model":"volta","options":[],"quantity":1}]}`)
	for _, statement := range []string{`create table kept as table feed`, `truncate orders, feed`} { // as pg_restore --schema-only --clean
		if _, err := s.pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	wantReady(t, s, http.StatusServiceUnavailable)
	for _, path := range []string{"/orders/" + o.ID.String(), "/orders", "/feeds/orders", "/feeds/orders?after=0&limit=3", "/feeds/orders/" + o.ID.String()} {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			resp, body := s.do(t, "GET", path, "")
			if resp.StatusCode == http.StatusServiceUnavailable {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
			}
		}
	}
	if _, err := s.pool.Exec(t.Context(), `insert into feed table kept`); err != nil {
		t.Fatal(err)
	}
	wantReady(t, s, http.StatusOK)
}

// asOperator leaves a request without a token to open access, if it says so or is one for feeds or metrics. Any other
// is nobody's.
func asOperator(req *http.Request) {
	open := req.Header.Get("X-Access") == "open" || strings.HasPrefix(req.URL.Path, "/feeds") || req.URL.Path == "/metrics"
	if req.Header.Del("X-Access"); !open {
		req.Header.Set("X-Forwarded-For", "192.0.2.7")
	}
}
