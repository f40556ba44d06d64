package feedhttp

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// In a router of any program, a feed answers and refuses in the same words, and under the same access rules.
func TestRoutersOfOthers(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "other programs")
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

// A bufferedWriter keeps the answer until it is whole, and a flushedWriter takes no deadlines, as the writers of other
// programs' middleware.
type (
	bufferedWriter struct{ w http.ResponseWriter }
	flushedWriter  struct{ bufferedWriter }
)

func (b bufferedWriter) Header() http.Header         { return b.w.Header() }
func (b bufferedWriter) Write(p []byte) (int, error) { return b.w.Write(p) }
func (b bufferedWriter) WriteHeader(status int)      { b.w.WriteHeader(status) }
func (f flushedWriter) Flush()                       { _ = http.NewResponseController(f.w).Flush() }

// Behind middleware and in servers of any program, streams stream or are refused, and requests wait for as long as they
// may.
func TestMiddlewareOfOthers(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "other programs")
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 7)
	source := New(l, Options{PublicURL: publicURL}, description)
	with := func(writer func(http.ResponseWriter) http.ResponseWriter, within time.Duration) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), within)
			defer cancel()
			source.ServeHTTP(writer(w), r.WithContext(ctx))
		})
	}
	plain := func(w http.ResponseWriter) http.ResponseWriter { return w }
	buffered := func(w http.ResponseWriter) http.ResponseWriter { return bufferedWriter{w} }
	flushed := func(w http.ResponseWriter) http.ResponseWriter { return flushedWriter{bufferedWriter{w}} }
	for _, x := range []struct {
		name    string
		handler http.Handler
		stream  int
		applied string
	}{
		{"a deadline", with(plain, 3*time.Second), 200, "wait=1"},
		{"a deadline that is near", with(plain, 900*time.Millisecond), 200, ""},
		{"http.TimeoutHandler", http.TimeoutHandler(source, 3*time.Second, "late"), 501, "wait=1"},
		{"a writer that keeps the answer", with(buffered, 3*time.Second), 501, "wait=1"},
		{"a writer without deadlines", with(flushed, 3*time.Second), 200, "wait=1"},
		{"a server with a short WriteTimeout", source, 0, "wait=2"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(x.handler)
			if x.stream == 0 {
				server.Config.WriteTimeout = time.Second
			}
			server.Start()
			t.Cleanup(server.Close)
			resp, body := get(t, server, "GET", "/feeds/things?after="+cursorAt(t, pool, 7).String(), "Prefer", "wait=2", "Accept", feed.TypeJSON)
			if applied := resp.Header.Get("Preference-Applied"); resp.StatusCode != 200 || applied != x.applied || !strings.Contains(body, `"items":[]`) {
				t.Errorf("%d, Preference-Applied %q: %s", resp.StatusCode, applied, body)
			}
			if x.stream == 0 {
				return
			}
			resp, body = get(t, server, "GET", "/feeds/things?after=0", "Accept", feed.TypeEvents)
			if resp.StatusCode != x.stream || x.stream == 200 && strings.Count(body, "\nid: ") != 7 {
				t.Errorf("an event stream: %d: %s", resp.StatusCode, body)
			}
		})
	}
}
