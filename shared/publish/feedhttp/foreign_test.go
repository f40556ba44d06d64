package feedhttp

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// In an engine of any program, a feed answers and refuses in the same words.
func TestEngineOfOthers(t *testing.T) {
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
	route := func(engine *gin.Engine) *gin.Engine {
		NewSource(l, Config{Name: "Test", PublicURL: publicURL}, description).Route(engine.Group("", rules.Identify(), rules.Reader()))
		return engine
	}
	serve := func(h http.Handler) *httptest.Server {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server
	}
	answering := gin.New()
	answering.HandleMethodNotAllowed = true
	mux := http.NewServeMux()
	mux.Handle("/feeds", route(gin.New()))
	mux.Handle("/feeds/", route(gin.New()))
	mux.Handle("/problems/", route(gin.New()))
	ours := serve(route(web.New(slog.New(slog.DiscardHandler))))
	others := map[string]*httptest.Server{
		"gin.New": serve(route(gin.New())), "gin.Default": serve(route(gin.Default())),
		"one that answers other methods": serve(route(answering)), "below http.ServeMux": serve(mux),
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
			resp, body := get(t, server, x.method, x.path, x.header...)
			if resp.StatusCode != x.status || body != wantBody {
				t.Errorf("%s, %s: %d %q, want %q", x.name, name, resp.StatusCode, body, wantBody)
			}
			for _, field := range []string{
				"Content-Type", "Content-Length", "Cache-Control", "Etag", "Vary", "Link", "Allow", "Retry-After", "Www-Authenticate", "Location",
			} {
				if got := resp.Header.Values(field); strings.Join(got, "|") != strings.Join(want.Header.Values(field), "|") {
					t.Errorf("%s, %s: %s is %q, want %q", x.name, name, field, got, want.Header.Values(field))
				}
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

// The pages have their style where the engine routes it, and are complete without.
func TestPagesOfOthers(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 3)
	engine := gin.New()
	d := description
	d.Show = nil
	NewSource(l, Config{Name: "Test", PublicURL: publicURL}, d).Route(engine)
	web.RouteAssets(engine)
	server := httptest.NewServer(engine)
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

// A feed that nobody puts into words is there in every format.
func TestNoWords(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	d := description
	d.Show = nil
	engine := web.New(slog.New(slog.DiscardHandler))
	NewSource(l, Config{Name: "Test", PublicURL: publicURL}, d).Route(engine)
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	fill(t, l, 2)
	id := numbered(2).String()
	for path, says := range map[string]string{
		"/feeds/things.json":            `"title":"` + id + `","content_html":"<pre>{\n  &#34;name&#34;: &#34;` + id[:4] + ` &lt;&amp;&gt; 1&#34;\n}</pre>"`,
		"/feeds/things.atom":            "<title>" + id + "</title>",
		"/feeds/things.html":            "<pre>{\n  &#34;name&#34;: &#34;" + id[:4] + " &lt;&amp;&gt; 1&#34;\n}</pre>",
		"/feeds/things/" + id:           `"entity":`,
		"/feeds/things?after=0":         id,
		"/feeds/things/" + id + "?html": id,
	} {
		accept := "*/*"
		if strings.HasSuffix(path, "?html") {
			accept = "text/html"
		}
		if resp, body := get(t, server, "GET", path, "Accept", accept); resp.StatusCode != 200 || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s, want %s", path, resp.StatusCode, body, says)
		}
	}
}
