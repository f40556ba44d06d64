package access

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/webserver"
	"github.com/edison-cars/data-feeds/sql"
)

const (
	bearerOnly = `Bearer realm="warehouse"`
	basicToo   = `Basic realm="warehouse", charset="UTF-8"`
	invalid    = `, error="invalid_token"`
)

// TestRules asks every kind of route with every kind of credential.
func TestRules(t *testing.T) {
	t.Parallel()
	site := newSite(t, Closed, Options{})
	unknown, hash := NewToken()
	ada, warehouse, scarce := site.tokens["ada:operator"], site.tokens["warehouse:reader"], site.tokens["scarce:reader=orders+builds"]
	session := site.logIn(t)[1]
	type want struct {
		open, feed, customers, metrics, people string // <name role>, or a status
	}
	const none = "<nobody>"
	for _, x := range []struct {
		name   string
		header []string
		want
	}{
		{"nothing", nil, want{none, "401", "401", "401", "401"}},
		{"a reader's token", []string{"Authorization", "Bearer " + warehouse}, want{"<warehouse reader>", "<warehouse reader>", "<warehouse reader>", "<warehouse reader>", "403"}},
		{"a reader's token, for some feeds", []string{"Authorization", "bearer  " + scarce}, want{"<scarce reader>", "<scarce reader>", "403", "<scarce reader>", "403"}},
		{"a reader's as password", []string{"Authorization", basic("", warehouse)}, want{"<warehouse reader>", "<warehouse reader>", "<warehouse reader>", "<warehouse reader>", "403"}},
		{"a reader's as password, with its name", []string{"Authorization", basic("warehouse", warehouse)}, want{"<warehouse reader>", "<warehouse reader>", "<warehouse reader>", "<warehouse reader>", "403"}},
		{"a reader's as password, with another's name", []string{"Authorization", basic("ada", warehouse)}, want{none, "401!", "401!", "401!", "401!"}},
		{"a reader's of an operator's name", []string{"Authorization", "Bearer " + site.tokens["ada:reader"]}, want{"<ada reader>", "<ada reader>", "<ada reader>", "<ada reader>", "403"}},
		{"an operator's", []string{"Authorization", "BEARER " + ada}, want{"<ada operator>", "<ada operator>", "<ada operator>", "<ada operator>", "<ada operator>"}},
		{"an operator's as password", []string{"Authorization", basic("", ada)}, want{"<ada reader>", "<ada reader>", "<ada reader>", "<ada reader>", "403"}},
		{"an unknown one", []string{"Authorization", "Bearer " + unknown}, want{none, "401!", "401!", "401!", "401!"}},
		{"an unknown one as password", []string{"Authorization", basic("", unknown)}, want{none, "401!", "401!", "401!", "401!"}},
		{"a part of one", []string{"Authorization", "Bearer " + ada[:len(ada)-1]}, want{none, "401!", "401!", "401!", "401!"}},
		{"a hash", []string{"Authorization", "Bearer " + hash}, want{none, "401!", "401!", "401!", "401!"}},
		{"an endless one", []string{"Authorization", "Bearer " + strings.Repeat("A", maxToken+1)}, want{none, "401!", "401!", "401!", "401!"}},
		{"an empty one", []string{"Authorization", "Bearer "}, want{none, "401!", "401!", "401!", "401!"}},
		{"as user", []string{"Authorization", basic(ada, "")}, want{none, "401!", "401!", "401!", "401!"}},
		{"without a scheme", []string{"Authorization", ada}, want{none, "401!", "401!", "401!", "401!"}},
		{"another scheme", []string{"Authorization", "Token " + ada}, want{none, "401!", "401!", "401!", "401!"}},
		{"broken Basic", []string{"Authorization", "Basic " + ada}, want{none, "401!", "401!", "401!", "401!"}},
		{"a session", []string{"Cookie", session}, want{"<ada operator>", "<ada operator>", "<ada operator>", "<ada operator>", "<ada operator>"}},
		{"a session, beside a password that the browser remembers", []string{"Cookie", session, "Authorization", basic("", scarce)}, want{"<ada operator>", "<ada operator>", "<ada operator>", "<ada operator>", "<ada operator>"}},
		{"a session, beside one that is revoked", []string{"Cookie", session, "Authorization", basic("", unknown)}, want{"<ada operator>", "<ada operator>", "<ada operator>", "<ada operator>", "<ada operator>"}},
		{"no session, beside a token", []string{"Cookie", session + "x", "Authorization", "Bearer " + warehouse}, want{"<warehouse reader>", "<warehouse reader>", "<warehouse reader>", "<warehouse reader>", "403"}},
		{"a token as cookie", []string{"Cookie", "warehouse_session=" + ada}, want{none, "401", "401", "401", "401"}},
		{"the hash of a token as cookie", []string{"Cookie", "warehouse_session=" + hash}, want{none, "401", "401", "401", "401"}},
		{"an empty cookie", []string{"Cookie", "warehouse_session="}, want{none, "401", "401", "401", "401"}},
		{"the cookie of another service", []string{"Cookie", "sales" + strings.TrimPrefix(session, "warehouse")}, want{none, "401", "401", "401", "401"}},
		{"the cookie of https", []string{"Cookie", "__Host-" + session}, want{none, "401", "401", "401", "401"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			for path, want := range map[string]string{
				"/open": x.open, "/feeds": x.metrics, "/feeds/orders": x.feed, "/feeds/orders.json": x.feed, "/feeds/customers": x.customers,
				"/feeds/customers.html": x.customers, "/metrics": x.metrics, "/people": x.people,
			} {
				for _, method := range []string{"GET", "HEAD", "PUT"} {
					if method == "PUT" && path != "/people" {
						continue
					}
					r := site.ask(t, method, path, "", x.header...)
					status := 200
					if strings.HasPrefix(want, "4") {
						status = map[string]int{"401": 401, "401!": 401, "403": 403}[want]
					}
					if r.status != status {
						t.Errorf("%s %s: %d %s", method, path, r.status, r.body)
						continue
					}
					challenge := []string(nil)
					if status == 401 {
						challenge = []string{bearerOnly}
						if want == "401!" {
							challenge[0] += invalid
						}
						if path != "/people" {
							challenge = append(challenge, basicToo)
						}
					}
					if got := r.header.Values("WWW-Authenticate"); !slices.Equal(got, challenge) {
						t.Errorf("%s %s: WWW-Authenticate %q", method, path, got)
					}
					switch {
					case method == "HEAD":
					case status != 200:
						r.wantProblem(t, status)
						if r.header.Get("Cache-Control") != "no-store" {
							t.Error(r.header)
						}
					case strings.ReplaceAll(r.body, "< nobody>", none) != want:
						t.Errorf("%s %s: %s", method, path, r.body)
					}
				}
			}
		})
	}
	t.Run("in the URL does not count", func(t *testing.T) {
		t.Parallel()
		for _, name := range []string{"access_token", "token"} {
			site.ask(t, "GET", "/feeds?"+name+"="+ada, "").wantProblem(t, 401)
		}
	})
	t.Run("in two fields does not count", func(t *testing.T) {
		t.Parallel()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", site.url+"/feeds", nil)
		req.Header["Authorization"] = []string{"Bearer " + ada, "Bearer " + warehouse}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != 401 {
			t.Error(resp.Status)
		}
	})
	t.Run("the answer to an operator is for nobody else", func(t *testing.T) {
		t.Parallel()
		if r := site.ask(t, "GET", "/people", "", site.as("ada:operator")...); r.header.Get("Cache-Control") != "private, no-cache" {
			t.Error(r.header)
		}
	})
	t.Run("the answer to a session is stored by no cache", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"/people", "/page", "/feeds", "/feeds/orders/sealed", "/feeds/orders/unchanged", "/metrics", "/sealed"} {
			for _, method := range []string{"GET", "HEAD"} {
				r := site.ask(t, method, path, "", "Cookie", session)
				if r.status >= 400 || !slices.Equal(r.header.Values("Cache-Control"), []string{"no-store"}) {
					t.Error(method, path, r.status, r.header)
				}
			}
		}
		for _, header := range [][]string{site.as("ada:operator"), append(site.as("ada:operator"), "Cookie", session+"x")} {
			if r := site.ask(t, "GET", "/feeds/orders/sealed", "", header...); r.header.Get("Cache-Control") != "private, max-age=31536000, immutable" {
				t.Error(r.header)
			}
		}
	})
	t.Run("the log names clients, and no token", func(t *testing.T) {
		site.ask(t, "GET", "/feeds", "", site.as("warehouse:reader")...)
		site.ask(t, "GET", "/people", "", "Cookie", session)
		logged := site.logged.String()
		for _, words := range []string{"path=/feeds status=200 ", "path=/people status=200 ", "reader=warehouse", "reader=ada"} {
			if !strings.Contains(logged, words) {
				t.Errorf("%q is not logged", words)
			}
		}
		for line := range strings.Lines(logged) {
			if !strings.Contains(line, "token=") && strings.Contains(line, tokenPrefix) || hashes.MatchString(line) { // some ask with one in the URL
				t.Error(line)
			}
		}
	})
}

func TestWithoutIdentifyNobodyIsLetIn(t *testing.T) {
	t.Parallel()
	site := newSite(t, Open, Options{})
	e := webserver.New(site.Logger)
	webserver.GET(e.Group("", site.Reader()), "/feeds", func(c *gin.Context) { c.String(200, "feeds") })
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/feeds", nil)
	r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1"
	r.Header.Set("Authorization", "Bearer "+site.tokens["ada:operator"])
	w := httptest.NewRecorder()
	if e.ServeHTTP(w, r); w.Code != 401 {
		t.Error(w.Code, w.Body)
	}
}

func TestOpenForCaches(t *testing.T) {
	t.Parallel()
	tokens, _ := settings(t, "ada:operator")
	for _, x := range []struct {
		settings Settings
		open     bool
	}{
		{Settings{Access: Open}, true}, {Settings{}, false}, {Settings{Access: Open, Tokens: tokens.Tokens}, false}, {Settings{Tokens: tokens.Tokens}, false},
	} {
		a, err := New(x.settings, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if a.Open() != x.open {
			t.Errorf("%v: %t", x.settings, a.Open())
		}
	}
	for text, want := range map[string]bool{"open": true, "closed": true, "": false, "Open": false, "opened": false, "true": false} {
		if err := new(Mode).UnmarshalText([]byte(text)); err == nil != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A session counts at its service alone, also where services share a table.
func TestSessionOfAnotherService(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("access"))
	s, made := settings(t, "ada:operator")
	warehouse := start(t, s, Options{Service: "warehouse", Title: "Warehouse", Pool: pool}, made)
	billing := start(t, s, Options{Service: "billing", Title: "Billing", Pool: pool}, made)
	replica := start(t, s, Options{Service: "warehouse", Title: "Warehouse", Pool: pool}, made)
	var reader Settings
	known := warehouse.Access.tokens.Load().find(made["ada:operator"])
	if err := reader.Tokens.UnmarshalText(fmt.Appendf(nil, "ada:reader:%x", known.hash)); err != nil {
		t.Fatal(err)
	}
	demoted := start(t, reader, Options{Service: "warehouse", Title: "Warehouse", Pool: pool}, made)
	_, id, _ := strings.Cut(warehouse.logIn(t)[1], "=")
	for _, x := range []struct {
		*site
		status int
	}{{warehouse, 200}, {replica, 200}, {billing, 401}, {demoted, 401}} {
		if r := x.ask(t, "GET", "/people", "", "Cookie", x.cookieName(false)+"="+id); r.status != x.status {
			t.Error(r)
		}
	}
	billing.ask(t, "POST", "/logout", "", "Cookie", "billing_session="+id)
	if r := warehouse.ask(t, "GET", "/people", "", "Cookie", "warehouse_session="+id); r.status != 200 {
		t.Error("another service ends the session:", r)
	}
	var kept string
	if err := pool.QueryRow(t.Context(), `select string_agg(s::text, ' ') from operator_session s`).Scan(&kept); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(kept, id) || strings.Contains(kept, tokenPrefix) {
		t.Error("the table holds what the browser has:", kept)
	}
}

// A database that does not answer is no reason to turn an operator away for good.
func TestSessionsAway(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	pool := pgtest.New(t, sql.Migrations("access"))
	site := newSite(t, Closed, Options{Pool: pool})
	session := site.logIn(t)
	lock, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback(context.Background()) }()
	if _, err := lock.Exec(t.Context(), `lock operator_session`); err != nil {
		t.Fatal(err)
	}
	t.Run("while", func(t *testing.T) {
		for _, x := range []struct {
			method, target, body string
			header               []string
			status               int
		}{
			{"GET", "/people", "", session, 503},
			{"POST", "/people", "a=b", session, 503},
			{"GET", "/feeds/orders", "", session, 503},
			{"GET", "/open", "", session, 200},
			{"GET", "/login", "", session, 200},
			{"POST", "/logout", "", session, 503},
			{"POST", "/login", url.Values{"token": {site.tokens["ada:operator"]}}.Encode(), nil, 503},
			{"GET", "/people", "", site.as("ada:operator"), 200},
			{"GET", "/feeds/orders", "", append([]string{"Authorization", basic("", site.tokens["warehouse:reader"])}, session...), 200},
		} {
			t.Run(x.method+x.target, func(t *testing.T) {
				t.Parallel()
				r := site.ask(t, x.method, x.target, x.body, x.header...)
				if r.status != x.status || x.status == 503 && r.header.Get("Retry-After") == "" || r.header.Get("Set-Cookie") != "" {
					t.Error(r)
				}
			})
		}
	})
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := site.ask(t, "GET", "/people", "", session...); r.status != 200 {
		t.Error(r)
	}
}

// The rules are part of every poll: what waits by the thousand must not grow by them.
func TestRulesAllocate(t *testing.T) {
	s, made := settings(t, list...)
	for name, x := range map[string]struct {
		mode          Mode
		authorization string
		most          float64
	}{
		"open":     {Open, "", 2},                                     // gin's map of what is set
		"a token":  {Closed, "Bearer " + made["warehouse:reader"], 7}, // that, the client, twice the request with its context
		"password": {Closed, basic("", made["warehouse:reader"]), 10}, // that, and what is decoded
	} {
		s.Access = x.mode
		a, err := New(s, Options{Service: "warehouse"})
		if err != nil {
			t.Fatal(err)
		}
		identify, reader := a.Identify(), a.Reader()
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Params = gin.Params{{Key: "feed", Value: "orders"}}
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/feeds/orders", nil)
		r.Host, r.RemoteAddr = "localhost:8080", "127.0.0.1:1234"
		r.Header.Set("Accept", "application/feed+json")
		if x.authorization != "" {
			r.Header.Set("Authorization", x.authorization)
		}
		n := testing.AllocsPerRun(100, func() {
			c.Keys, c.Request = nil, r
			identify(c)
			reader(c)
		})
		if c.IsAborted() || n > x.most {
			t.Errorf("%s: %v allocations, aborted %t", name, n, c.IsAborted())
		}
	}
}
