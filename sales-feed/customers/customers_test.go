package customers

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/web"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// An app is a running customers app.
type app struct {
	*httptest.Server
	pool   *pgxpool.Pool
	log    *publish.Log
	buyers *buyer.Side
	stop   func()
}

// open returns the app with a database of its own; start, on a database that is there.
func open(t testing.TB, env ...string) *app {
	t.Helper()
	return start(t, pgtest.New(t, Migrations()...), env...)
}

func start(t testing.TB, pool *pgxpool.Pool, env ...string) *app {
	t.Helper()
	vars := map[string]string{"ACCESS": "open", "STOREFRONT_URL": "https://shop.example", "BUYER_KEY": buyerKey}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	var settings Settings
	if err := daemon.Parse(vars, &settings); err != nil {
		t.Fatal(err)
	}
	logger := daemon.Logger(pgtest.Output(t), slog.LevelWarn)
	log, err := publish.Open(t.Context(), pool, publish.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	settings.PublicURL = cmp.Or(settings.PublicURL, web.Site("http://"+server.Listener.Addr().String()))
	buyers, err := buyer.New(buyer.Customers, settings.StorefrontURL, settings.Buyer, "", pool)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = handlerOf(t, settings, pool, log, logger)
	server.Start()
	stop := sync.OnceFunc(func() {
		server.Close()
		log.Close()
	})
	t.Cleanup(stop)
	return &app{server, pool, log, buyers, stop}
}

const buyerKey = "a-key-of-buyers-that-tests-alone-have"

var (
	operator = []string{"Authorization", "", "X-Access", "open"}
)

// as returns the header of a customer's token that has not ended.
func (a *app) as(t testing.TB, id uuid.UUID) []string {
	t.Helper()
	since, err := buyer.Since(t.Context(), a.pool, id)
	if err != nil {
		t.Fatal(err)
	}
	token, err := a.buyers.Token(buyer.Buyer{Customer: id, Since: since})
	if err != nil {
		t.Fatal(err)
	}
	return []string{"Authorization", "Bearer " + token}
}

// do sends a request with headers given as name, value, name, value ... With neither Authorization nor Cookie it is
// that of the customer whose account it asks for.
func (a *app) do(t testing.TB, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, a.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if rest, ok := strings.CutPrefix(path, "/customers/"); ok && len(rest) >= 36 && req.Header["Authorization"] == nil && req.Header["Cookie"] == nil {
		if id, err := uuid.Parse(rest[:36]); err == nil {
			as := a.as(t, id)
			req.Header.Set(as[0], as[1])
		}
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

// json sends JSON and gives the customer that is answered with.
func (a *app) json(t testing.TB, method, path, body string, want int, header ...string) (*http.Response, customer.Customer) {
	t.Helper()
	resp, text := a.do(t, method, path, body, append([]string{"Content-Type", "application/json"}, header...)...)
	var p customer.Customer
	if err := json.Unmarshal([]byte(text), &p); err != nil || resp.StatusCode != want {
		t.Fatalf("%s %s: %d %s (%v)", method, path, resp.StatusCode, text, err)
	}
	return resp, p
}

// form sends a form as a browser does.
func (a *app) form(t *testing.T, path string, fields url.Values) (*http.Response, string) {
	t.Helper()
	return a.do(t, "POST", path, fields.Encode(), "Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html", "Sec-Fetch-Site", "same-origin")
}

// entries replays the feed. Every entry is as the contract says.
func (a *app) entries(t *testing.T) []feed.Entry {
	t.Helper()
	answer, err := feedclient.New("").Get(t.Context(), feedclient.Request{URL: a.URL + "/feeds/customers", Limit: feed.MaxPageSize})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range answer.Page.Entries {
		if err := customer.Check(e); err != nil {
			t.Errorf("%s: %v", e.Entity, err)
		}
	}
	return answer.Page.Entries
}

// A key that came while the clock of the database was behind is new.
func TestIdempotencyKeyOfAWrongClock(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, Migrations()...)
	pgtest.SetClock(t, pool, -8*24*time.Hour, "idempotency_key", "created_at")
	start(t, pool).json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "a")
	var age time.Duration
	if err := pool.QueryRow(t.Context(), `select pg_catalog.now() - created_at from idempotency_key`).Scan(&age); err != nil || age > time.Hour {
		t.Errorf("it is %v old, %v", age, err)
	}
}

const ada = `{"name":"Ada Lovelace","email":"ada@example.com","address":{"street":"St James Square 12","postal_code":"SW1Y 4JH","city":"London","country":"GB"}}`

func adaForm(more ...string) url.Values {
	form := url.Values{
		"name": {"Ada Lovelace"}, "email": {"ada@example.com"}, "street": {"St James Square 12"}, "postal_code": {"SW1Y 4JH"}, "city": {"London"}, "country": {"GB"},
	}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	return form
}

func TestSignUp(t *testing.T) {
	t.Parallel()
	a := open(t)
	resp, p := a.json(t, "POST", "/customers", strings.NewReplacer("Ada Lovelace", " Ada Lovelace ", `"GB"`, `"gb"`).Replace(ada), 201)
	if resp.Header.Get("Location") != path(p.ID) || p.ID.Version() != 7 || p.Version != 1 || p.Name != "Ada Lovelace" || p.Address.Country != "GB" || !p.CreatedAt.Equal(p.UpdatedAt.Time) {
		t.Errorf("%v %+v", resp.Header, p)
	}
	resp, body := a.do(t, "GET", path(p.ID), "")
	entries := a.entries(t)
	if resp.StatusCode != 200 || resp.Header.Get("ETag") != `"1"` || resp.Header.Get("Cache-Control") != "private, no-cache" ||
		len(entries) != 1 || string(entries[0].Entity) != strings.TrimSpace(body) || entries[0].ID != p.ID || entries[0].Version != 1 {
		t.Errorf("%v %s\non the feed: %+v", resp.Header, body, entries)
	}
	if resp, body := a.do(t, "GET", path(p.ID), "", "If-None-Match", `"1"`); resp.StatusCode != 304 || body != "" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	for _, path := range []string{path(uuid.New()), "/customers/none", path(p.ID)[:11] + strings.ToUpper(p.ID.URN())} {
		if resp, _ := a.do(t, "GET", path, "", operator...); resp.StatusCode != 404 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if _, other := a.json(t, "POST", "/customers", ada, 201); other.ID == p.ID {
		t.Error("two of the same e-mail are one account")
	}
	t.Run("under a key", func(t *testing.T) {
		_, first := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "k")
		a.json(t, "PUT", path(first.ID), strings.Replace(ada, "London", "Paris", 1), 200)
		if _, again := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "k"); again != first {
			t.Errorf("%+v, first %+v", again, first)
		}
		resp, body := a.do(t, "POST", "/customers", strings.Replace(ada, "London", "Paris", 1), "Content-Type", "application/json", "Idempotency-Key", "k")
		if resp.StatusCode != 422 || !strings.Contains(body, "Idempotency-Key") {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	})
	t.Run("many at once under a key", func(t *testing.T) {
		before := len(a.entries(t))
		var all sync.WaitGroup
		ids := make([]uuid.UUID, 8)
		for i := range ids {
			all.Go(func() {
				_, p := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "m")
				ids[i] = p.ID
			})
		}
		all.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("accounts %s and %s", id, ids[0])
			}
		}
		if n := len(a.entries(t)) - before; n != 1 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, p := a.json(t, "POST", "/customers", ada, 201)
	with := func(old, now string) string { return strings.Replace(ada, old, now, 1) }
	for _, x := range []struct {
		name, body, field string
	}{
		{"no name", with("Ada Lovelace", "  "), "name"},
		{"a long name", with("Ada Lovelace", strings.Repeat("ä", 201)), "name"},
		{"a line break", with("Ada Lovelace", `Ada\nBcc: bob@example.com`), "name"},
		{"a link for a name", with("Ada Lovelace", "Win at https://evil.example/x"), "name"},
		{"a domain for a name", with("Ada Lovelace", "evil.example"), "name"},
		{"a name that nobody sees", with("Ada Lovelace", `\u3164`), "name"},
		{"a name of marks", with("Ada Lovelace", `\u0301`), "name"},
		{"a name that turns the line", with("Ada Lovelace", `\u202eAda`), "name"},
		{"an e-mail that turns the line", with("ada@example.com", `\u202eada@example.com`), "email"},
		{"a street that nobody sees", with("St James Square 12", `\u2800`), "address.street"},
		{"a city that turns the line", with("London", `Lon\u2067don`), "address.city"},
		{"NUL", with("London", `Lon\u0000don`), "address.city"},
		{"a paragraph separator", with("London", `Lon\u2029don`), "address.city"},
		{"half a surrogate", with("London", `Lon\ud800don`), "address.city"},
		{"no e-mail", with("ada@example.com", ""), "email"},
		{"an e-mail without a place", with("ada@example.com", "ada"), "email"},
		{"an e-mail with a name", with("ada@example.com", "Ada <ada@example.com>"), "email"},
		{"an e-mail in brackets", with("ada@example.com", "<ada@example.com>"), "email"},
		{"two e-mails", with("ada@example.com", "ada@example.com, bob@example.com"), "email"},
		{"an e-mail with a comment", with("ada@example.com", "ada@example.com (Ada)"), "email"},
		{"a long e-mail", with("ada@", strings.Repeat("a", 250)+"@"), "email"},
		{"no street", with("St James Square 12", ""), "address.street"},
		{"no postal code", with("SW1Y 4JH", ""), "address.postal_code"},
		{"a long postal code", with("SW1Y 4JH", strings.Repeat("1", 21)), "address.postal_code"},
		{"no country", with(`"GB"`, `""`), "address.country"},
		{"a country of three letters", with(`"GB"`, `"GBR"`), "address.country"},
		{"a country that is none", with(`"GB"`, `"UK"`), "address.country"},
		{"a country that was", with(`"GB"`, `"SU"`), "address.country"},
		{"no address", `{"name":"Ada","email":"ada@example.com"}`, "address.street"},
	} {
		t.Run(x.name, func(t *testing.T) {
			for method, path := range map[string]string{"POST": "/customers", "PUT": path(p.ID)} {
				resp, text := a.do(t, method, path, x.body, "Content-Type", "application/json")
				var problem web.Problem
				if err := json.Unmarshal([]byte(text), &problem); err != nil || resp.StatusCode != 422 || len(problem.Errors) == 0 || problem.Errors[0].Field != x.field {
					t.Errorf("%s: %d %s", method, resp.StatusCode, text)
				}
			}
		})
	}
	for name, x := range map[string]struct {
		contentType, body string
		status            int
	}{
		"another type":        {"text/plain", ada, 415},
		"no JSON":             {"application/json", "name=Ada", 400},
		"an unknown field":    {"application/json", with(`"name"`, `"version":7,"name"`), 422},
		"a body too large":    {"application/json", with("London", strings.Repeat("x", 1<<20)), 413},
		"a form, for no page": {"application/x-www-form-urlencoded", adaForm("email", "ada").Encode(), 422},
	} {
		if resp, text := a.do(t, "POST", "/customers", x.body, "Content-Type", x.contentType); resp.StatusCode != x.status || resp.Header.Get("Content-Type") != feed.TypeProblem {
			t.Errorf("%s: %d %s", name, resp.StatusCode, text)
		}
	}
	if n := len(a.entries(t)); n != 1 {
		t.Errorf("%d entries on the feed", n)
	}
}

func TestChange(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, first := a.json(t, "POST", "/customers", ada, 201)
	at := path(first.ID)
	moved := strings.Replace(ada, "London", "Paris", 1)
	resp, p := a.json(t, "PUT", at, moved, 200, "If-Match", `"7", "1"`)
	if p.Version != 2 || p.Address.City != "Paris" || resp.Header.Get("ETag") != `"2"` || !p.UpdatedAt.After(first.UpdatedAt.Time) || !p.CreatedAt.Equal(first.CreatedAt.Time) {
		t.Errorf("%+v", p)
	}
	for tag, want := range map[string]int{`"2-gzip"`: 200, `W/"2"`: 200, `W/"2;zstd"`: 200, `"1-gzip"`: 412, `W/"1"`: 412} { // as proxies make them
		if resp, text := a.do(t, "PUT", at, moved, "Content-Type", "application/json", "If-Match", tag); resp.StatusCode != want {
			t.Errorf("%s: %d %s", tag, resp.StatusCode, text)
		}
		if resp, text := a.do(t, "GET", at, "", "If-None-Match", tag); (resp.StatusCode == 304) != (want == 200) {
			t.Errorf("%s: %d %s", tag, resp.StatusCode, text)
		}
	}
	if resp, text := a.do(t, "PUT", at, ada, "Content-Type", "application/json", "If-Match", `"1"`); resp.StatusCode != 412 || !strings.Contains(text, "version 2") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if _, same := a.json(t, "PUT", at, moved, 200); same.Version != 2 {
		t.Errorf("what changes nothing is version %d", same.Version)
	}
	if resp, _ := a.do(t, "PUT", path(uuid.New()), ada, "Content-Type", "application/json"); resp.StatusCode != 404 {
		t.Errorf("an account that is not there: %d", resp.StatusCode)
	}
	t.Run("many at once", func(t *testing.T) {
		const writers = 8
		var all sync.WaitGroup
		for i := range writers {
			all.Go(func() { a.json(t, "PUT", at, strings.Replace(ada, "London", fmt.Sprint("City ", i), 1), 200) })
		}
		all.Wait()
		entries := a.entries(t)
		for i, e := range entries {
			if e.ID != first.ID || e.Version != int64(i+1) || i > 0 && !e.Updated.After(entries[i-1].Updated) {
				t.Errorf("entry %d is version %d of %v", i+1, e.Version, e.Updated)
			}
		}
		if _, last := a.json(t, "GET", at, "", 200); len(entries) != 2+writers || last.Version != int64(len(entries)) {
			t.Errorf("%d entries, version %d", len(entries), last.Version)
		}
	})
	t.Run("one of many who saw the same", func(t *testing.T) {
		resp, _ := a.do(t, "GET", at, "")
		var all sync.WaitGroup
		var mu sync.Mutex
		statuses := map[int]int{}
		for i := range 8 {
			all.Go(func() {
				resp, _ := a.do(t, "PUT", at, strings.Replace(ada, "London", fmt.Sprint("Town ", i), 1), "Content-Type", "application/json", "If-Match", resp.Header.Get("ETag"))
				mu.Lock()
				defer mu.Unlock()
				statuses[resp.StatusCode]++
			})
		}
		all.Wait()
		if statuses[200] != 1 || statuses[412] != 7 {
			t.Error(statuses)
		}
	})
}

// An e-mail address is confirmed for the account that has it, until it is another one.
func TestConfirm(t *testing.T) {
	t.Parallel()
	a := open(t)
	s := &store{a.pool, a.log}
	_, p := a.json(t, "POST", "/customers", ada, 201)
	at := path(p.ID)
	now := func(version int64, confirmed bool) {
		t.Helper()
		_, p := a.json(t, "GET", at, "", 200)
		var last customer.Customer
		entries := a.entries(t)
		if err := json.Unmarshal(entries[len(entries)-1].Entity, &last); err != nil {
			t.Fatal(err)
		}
		if p.Version != version || p.EmailConfirmed != confirmed || last != p {
			t.Errorf("%+v, on the feed %+v", p, last)
		}
	}
	now(1, false)
	l := &links{pool: a.pool}
	confirm := func(email string) (*customer.Customer, error) {
		secret := uuid.NewString()
		a.keepLink(t, secret, p.ID, email, "now() + interval '1 minute'")
		p, _, _, err := s.confirm(t.Context(), l, secret)
		return p, err
	}
	for range 2 { // the second one changes nothing
		if p, err := confirm("ada@example.com"); err != nil || !p.EmailConfirmed {
			t.Errorf("%+v, %v", p, err)
		}
		now(2, true)
	}
	a.json(t, "PUT", at, strings.Replace(ada, "London", "Paris", 1), 200)
	now(3, true)
	a.json(t, "PUT", at, strings.Replace(ada, "ada@", "bob@", 1), 200)
	now(4, false)
	a.json(t, "PUT", at, ada, 200)
	now(5, false)
	for _, email := range []string{"bob@example.com", "Ada@example.com", ""} {
		if _, err := confirm(email); !errors.Is(err, errNoLink) {
			t.Errorf("%q: %v", email, err)
		}
	}
	now(5, false)
	t.Run("nobody confirms by the API", func(t *testing.T) {
		if resp, text := a.do(t, "PUT", at, strings.Replace(ada, "{", `{"email_confirmed":true,`, 1), "Content-Type", "application/json"); resp.StatusCode != 422 {
			t.Errorf("%d %s", resp.StatusCode, text)
		}
	})
	t.Run("while others change the account", func(t *testing.T) {
		var all sync.WaitGroup
		var changed atomic.Int64
		for i := range 8 {
			all.Go(func() {
				header := append(a.as(t, p.ID), "Content-Type", "application/json")
				switch resp, text := a.do(t, "PUT", at, strings.Replace(ada, "London", fmt.Sprint("City ", i), 1), header...); resp.StatusCode {
				case 200:
					changed.Add(1)
				case 401: // it has ended meanwhile
				default:
					t.Error(resp.Status, text)
				}
			})
		}
		if _, err := confirm("ada@example.com"); err != nil {
			t.Error(err)
		}
		all.Wait()
		now(6+changed.Load(), true)
	})
	t.Run("again, which ends what the first time gave out, whatever was checked before", func(t *testing.T) {
		first := buyer.Buyer{Customer: p.ID}
		var err error
		if first.Since, err = buyer.Since(t.Context(), a.pool, p.ID); err != nil || first.Since == 0 {
			t.Error(first.Since, err)
		}
		a.json(t, "PUT", at, strings.Replace(ada, "ada@", "bob@", 1), 200)
		if _, err := confirm("bob@example.com"); err != nil {
			t.Error(err)
		}
		_, changeErr := s.change(t.Context(), first, account{Name: "Eve", Email: "eve@example.com", Address: p.Address}, nil)
		deleteErr := s.delete(t.Context(), first, nil)
		if !errors.Is(changeErr, buyer.ErrEnded) || !errors.Is(deleteErr, buyer.ErrEnded) {
			t.Errorf("%v, %v", changeErr, deleteErr)
		}
	})
	a.keepLink(t, "a link", p.ID, "bob@example.com", "now() + interval '1 minute'")
	a.do(t, "DELETE", at, "")
	if _, _, _, err := s.confirm(t.Context(), l, "a link"); !errors.Is(err, errNoLink) {
		t.Errorf("%v", err)
	}
}

// dump is every row of every table as text.
func (a *app) dump(t *testing.T) string {
	t.Helper()
	rows, err := a.pool.Query(t.Context(), `select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, table := range tables {
		var text string
		if err := a.pool.QueryRow(t.Context(), `select coalesce(string_agg(t::text, e'\n'), '') from `+table+` t`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		all.WriteString(text)
	}
	return all.String()
}

// Nothing of a deleted account is left: not in the database, not on any page, not in the answer to a repeated sign-up.
func TestDelete(t *testing.T) {
	t.Parallel()
	a := open(t)
	bob := strings.NewReplacer("Ada Lovelace", "Bob", "ada@", "bob@", "St James Square 12", "Road 1", "London", "Leeds").Replace(ada)
	_, stays := a.json(t, "POST", "/customers", bob, 201, "Idempotency-Key", "bob")
	_, p := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada")
	a.json(t, "PUT", path(p.ID), strings.Replace(ada, "London", "Paris", 1), 200)
	said := []string{"Lovelace", "ada@example.com", "St James", "London", "Paris"}
	pages := []string{"/feeds/customers", "/feeds/customers.atom", "/feeds/customers.html", "/feeds/customers?after=0", "/feeds/customers/" + p.ID.String(), path(p.ID)}
	says := func(word string) (where []string) {
		if dump := a.dump(t); strings.Contains(dump, word) || strings.Contains(dump, hex.EncodeToString([]byte(word))) {
			where = append(where, "the database")
		}
		for _, path := range pages {
			for _, accept := range []string{"*/*", "text/html"} {
				if _, body := a.do(t, "GET", path, "", "Accept", accept); strings.Contains(body, word) {
					where = append(where, path)
				}
			}
		}
		return where
	}
	for _, word := range said[:3] {
		if found := says(word); len(found) < len(pages) {
			t.Errorf("%q is found in %v only", word, found)
		}
	}
	if resp, _ := a.do(t, "DELETE", path(p.ID), "", "If-Match", `"1"`); resp.StatusCode != 412 {
		t.Errorf("against another version: %d", resp.StatusCode)
	}
	if resp, body := a.do(t, "DELETE", path(p.ID), "", "If-Match", `"2"`); resp.StatusCode != 204 || body != "" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	for _, word := range said {
		if found := says(word); len(found) > 0 {
			t.Errorf("%q is still in %v", word, found)
		}
	}
	entries := a.entries(t)
	for i, deleted := range []bool{false, true, true, true} {
		if e := entries[i]; e.Deleted != deleted || deleted && e.ID != p.ID {
			t.Errorf("entry %d: %+v", i+1, e)
		}
	}
	if last := entries[3]; last.Version != 3 || len(entries) != 4 {
		t.Errorf("%+v", entries)
	}
	for method, body := range map[string]string{"GET": "", "PUT": ada, "DELETE": ""} {
		if resp, text := a.do(t, method, path(p.ID), body, "Content-Type", "application/json"); resp.StatusCode != 404 {
			t.Errorf("%s: %d %s", method, resp.StatusCode, text)
		}
	}
	if resp, text := a.do(t, "GET", path(p.ID), "", operator...); resp.StatusCode != 410 || !strings.Contains(text, "deleted") {
		t.Errorf("an operator: %d %s", resp.StatusCode, text)
	}
	if _, again := a.json(t, "POST", "/customers", bob, 201, "Idempotency-Key", "bob"); again.ID != stays.ID {
		t.Error("another account went too")
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, p := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "k")
	a.stop()
	a = start(t, a.pool)
	if _, again := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "k"); again != p {
		t.Errorf("%+v, before %+v", again, p)
	}
	a.json(t, "PUT", path(p.ID), strings.Replace(ada, "London", "Paris", 1), 200, "If-Match", `"1"`)
	a.stop()
	a = start(t, a.pool)
	if resp, _ := a.do(t, "DELETE", path(p.ID), ""); resp.StatusCode != 204 {
		t.Errorf("%d", resp.StatusCode)
	}
	if entries := a.entries(t); len(entries) != 3 || entries[2].Version != 3 || !entries[0].Deleted {
		t.Errorf("%+v", entries)
	}
}

func TestFeed(t *testing.T) {
	t.Parallel()
	token, hash := access.NewToken()
	a := open(t, "ACCESS=closed", "TOKENS=billing:reader:"+hash)
	const hostile = `<script>alert(1)</script> & Söhne`
	_, p := a.json(t, "POST", "/customers", strings.Replace(ada, "Ada Lovelace", hostile, 1), 201)
	for _, path := range []string{"/feeds/customers", "/feeds/customers.atom", "/feeds/customers.html", "/feeds/customers/" + p.ID.String()} {
		if resp, body := a.do(t, "GET", path, ""); resp.StatusCode != 401 || strings.Contains(body, "London") {
			t.Errorf("%s without a token: %d %s", path, resp.StatusCode, body)
		}
		resp, body := a.do(t, "GET", path, "", "Authorization", "Bearer "+token)
		if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "private, no-cache" || !strings.Contains(body, "SW1Y 4JH") {
			t.Errorf("%s: %d %v %s", path, resp.StatusCode, resp.Header, body)
		}
		if !strings.HasSuffix(path, p.ID.String()) && !strings.Contains(body, a.URL+"/customers/"+p.ID.String()) {
			t.Errorf("%s does not lead to the account", path)
		}
		if strings.HasSuffix(path, "html") && strings.Contains(body, "<script>alert") {
			t.Error(body)
		}
	}
	if resp, body := a.do(t, "GET", "/customers", "", "Authorization", "Bearer "+token); resp.StatusCode != 403 {
		t.Errorf("a reader gets the list of accounts: %d %s", resp.StatusCode, body)
	}
	if _, err := customersFeed("").Show(feed.Entry{Entity: []byte(`{"id":1}`)}); err == nil {
		t.Error("what is no customer was put into words")
	}
}

func TestCountries(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, c := range countries() {
		if len(c.Code) != 2 || c.Name == "" || c.Name == c.Code || names[c.Name] || !isCountry(c.Code) {
			t.Errorf("%+v", c)
		}
		names[c.Name] = true
	}
	if len(names) != 249 {
		t.Errorf("%d countries", len(names))
	}
}

// The longest account that the form takes is one that all readers of the feed take.
func TestLongestAccount(t *testing.T) {
	t.Parallel()
	a := account{Email: strings.Repeat("a", 64) + "@" + strings.Repeat(strings.Repeat("b", 63)+".", 2) + strings.Repeat("c", 61)}
	for _, f := range a.fields() {
		switch f.value {
		case &a.Email:
		case &a.Address.Country:
			*f.value = "DE"
		default:
			*f.value = strings.Repeat("\U0001f697", f.max)
		}
	}
	if err := a.check(); err != nil {
		t.Fatal(err)
	}
	app := open(t)
	body, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	app.json(t, "POST", "/customers", string(body), http.StatusCreated)
	if n := len(app.entries(t)); n != 1 {
		t.Errorf("%d entries", n)
	}
}

// handlerOf returns what answers the app's requests. The settings have a PublicURL.
func handlerOf(t testing.TB, settings Settings, pool *pgxpool.Pool, log *publish.Log, logger *slog.Logger) http.Handler {
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

// asOperator leaves a request without a token to open access, if it says so or is one for feeds or metrics. Any other
// is nobody's.
func asOperator(req *http.Request) {
	open := req.Header.Get("X-Access") == "open" || strings.HasPrefix(req.URL.Path, "/feeds") || req.URL.Path == "/metrics"
	if req.Header.Del("X-Access"); !open {
		req.Header.Set("X-Forwarded-For", "192.0.2.7")
	}
}
