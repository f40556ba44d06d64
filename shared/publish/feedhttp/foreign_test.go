package feedhttp

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// In a router of any program, a feed answers and refuses in the same words, and under the same access rules.
func TestRoutersOfOthers(t *testing.T) {
	t.Parallel()
	gin.DefaultWriter, gin.DefaultErrorWriter = io.Discard, io.Discard
	pool := database(t)
	l, away := fragile(t, pool)
	fill(t, l, 250)
	token, hash := access.NewToken()
	var settings access.Settings
	if err := settings.Tokens.UnmarshalText([]byte("warehouse:reader:" + hash)); err != nil {
		t.Fatal(err)
	}
	rules, err := access.New(settings, access.Options{Service: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	source := New(l, Options{Brand: webserver.Brand, Name: "Cars", PublicURL: publicURL}, description)
	route := func(engine *gin.Engine) *gin.Engine {
		known := engine.Group("", rules.Identify(), rules.Reader())
		known.Any("/feeds", gin.WrapH(source))
		known.Any("/feeds/*path", gin.WrapH(source))
		return engine
	}
	serve := func(h http.Handler) *httptest.Server {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server
	}
	engine := webserver.New(slog.New(slog.DiscardHandler))
	known := engine.Group("", rules.Identify(), rules.Reader())
	webserver.GET(known, "/feeds", gin.WrapH(source))
	webserver.GET(known, "/feeds/*path", gin.WrapH(source))
	ours := serve(engine)
	mux, free := http.NewServeMux(), http.NewServeMux()
	for _, path := range []string{"/feeds", "/feeds/"} {
		mux.Handle(path, route(gin.New()))
		free.Handle(path, source)
	}
	others := map[string]*httptest.Server{
		"gin.New": serve(route(gin.New())), "gin.Default": serve(route(gin.Default())), "gin below http.ServeMux": serve(mux),
		"http.ServeMux": serve(free), "no router": serve(source),
	}
	right, bearer := cursorAt(t, pool, 42).String(), []string{"Authorization", "Bearer " + token}
	type request struct {
		name, method, path string
		header             []string
		status             int
	}
	same := func(t *testing.T, x request) {
		t.Helper()
		want, wantBody := get(t, ours, x.method, x.path, x.header...)
		if want.StatusCode != x.status {
			t.Fatalf("%s: %d of our own engine, want %d: %s", x.name, want.StatusCode, x.status, wantBody)
		}
		for name, server := range others {
			if x.status == http.StatusUnauthorized && (name == "http.ServeMux" || name == "no router") { // without rules
				continue
			}
			resp, body := get(t, server, x.method, x.path, x.header...)
			if resp.StatusCode != x.status || body != wantBody {
				t.Errorf("%s, %s: %d %q, want %q", x.name, name, resp.StatusCode, body, wantBody)
			}
			resp.Header.Del("Date")
			want.Header.Del("Date")
			if x.status != http.StatusUnauthorized && !maps.EqualFunc(resp.Header, want.Header, slices.Equal) {
				t.Errorf("%s, %s: header %v, want %v", x.name, name, resp.Header, want.Header)
			}
		}
	}
	for _, x := range []request{
		{"the feed", "GET", "/feeds/things", nil, 200},
		{"its header", "HEAD", "/feeds/things", nil, 200},
		{"its page", "GET", "/feeds/things.html", nil, 200},
		{"the list of feeds", "GET", "/feeds", nil, 200},
		{"an entity", "GET", "/feeds/things/" + numbered(7).String(), nil, 200},
		{"not modified", "GET", "/feeds/things", []string{"If-None-Match", "*"}, 304},
		{"a newer page", "GET", "/feeds/things/newer?before=" + right, nil, 307},
		{"a malformed cursor", "GET", "/feeds/things?after=yesterday", nil, 400},
		{"a malformed limit", "GET", "/feeds/things?after=0&limit=ten", nil, 400},
		{"another history", "GET", "/feeds/things?after=42-000000000000", nil, 410},
		{"another history, HEAD", "HEAD", "/feeds/things?after=42-000000000000", nil, 410},
		{"another history, in a browser", "GET", "/feeds/things?after=42-000000000000", []string{"Accept", "text/html"}, 410},
		{"another history, as a stream", "GET", "/feeds/things?after=42-000000000000", []string{"Accept", feed.TypeEvents}, 410},
		{"no such feed", "GET", "/feeds/nothing", nil, 404},
		{"no such feed, in a browser", "GET", "/feeds/nothing", []string{"Accept", "text/html"}, 404},
		{"no such entity", "GET", "/feeds/things/" + numbered(999).String(), nil, 404},
		{"a format that it does not speak", "GET", "/feeds/things", []string{"Accept", "image/png"}, 406},
	} {
		x.header = append(x.header, bearer...)
		same(t, x)
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		same(t, request{"a method that it does not take", method, "/feeds/things", bearer, 405})
	}
	same(t, request{"no token", "GET", "/feeds/things", nil, 401})
	same(t, request{"a wrong token", "GET", "/feeds", []string{"Authorization", "Bearer wrong"}, 401})

	away.Store(true)
	exec(t, pool, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
	for _, path := range []string{"/feeds/things?after=" + right, "/feeds/things/" + numbered(7).String()} {
		awaitStale(t, l)
		same(t, request{"the database is down", "GET", path, bearer, 503})
	}
}

// The pages have their style by the same handler.
func TestPagesOfOthers(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 3)
	server := httptest.NewServer(New(l, Options{PublicURL: publicURL}, description))
	t.Cleanup(server.Close)
	resp, body := get(t, server, "GET", "/feeds/things.html")
	_, style, _ := strings.Cut(body, `rel="stylesheet" href="`)
	style, _, _ = strings.Cut(style, `"`)
	if resp.StatusCode != 200 || !strings.Contains(body, numbered(3).String()) || !strings.HasPrefix(style, "/assets/") {
		t.Fatalf("%d, style %q: %s", resp.StatusCode, style, body)
	}
	if resp, body := get(t, server, "GET", style); resp.StatusCode != 200 || len(body) == 0 {
		t.Errorf("%s: %d", style, resp.StatusCode)
	}
}
