package subscribe_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/subscribe/subscribehttp"
	"github.com/edison-cars/data-feeds/sql"
)

var discard = slog.New(slog.DiscardHandler)

// A library is a source of books.
type library struct {
	log    *publish.Log
	addr   string
	server *httptest.Server // nil while it is down
}

func newLibrary(t *testing.T) *library {
	t.Helper()
	pool := pgtest.New(t, sql.Migrations("publish"))
	if _, err := pool.Exec(t.Context(), `select feed_create('books')`); err != nil {
		t.Fatal(err)
	}
	log, err := publish.Open(t.Context(), pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	l := &library{log: log, addr: "127.0.0.1:0"}
	l.open(t)
	t.Cleanup(l.close)
	return l
}

// open has the library answer, where it did before.
func (l *library) open(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	l.addr = ln.Addr().String()
	source := feedhttp.New(l.log, feedhttp.Options{PublicURL: "http://" + l.addr}, feed.Description{Name: "books"})
	l.server = &httptest.Server{Listener: ln, Config: &http.Server{Handler: source, ReadHeaderTimeout: time.Minute}}
	l.server.Start()
}

// close breaks all connections.
func (l *library) close() {
	if l.server != nil {
		l.server.CloseClientConnections()
		l.server.Close()
		l.server = nil
	}
}

func (l *library) url() string { return "http://" + l.addr + "/feeds/books" }

// add publishes n new books.
func (l *library) add(t *testing.T, n int) {
	t.Helper()
	err := l.log.InTx(t.Context(), func(tx *publish.Tx) error {
		for range n {
			id := uuid.New()
			tx.Append("books", publish.Entry{ID: id, Version: 1, Updated: time.Now(), Payload: fmt.Appendf(nil, `{"id":%q,"version":1,"title":"A book"}`, id)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// newShop returns the URL of a database with the tables of a program that knows PostgreSQL by pgx alone.
func newShop(t *testing.T, tables ...string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(pgtest.URL(pgtest.New(t)))
	if err != nil {
		t.Fatal(err)
	}
	name := config.ConnConfig.Database
	config.ConnConfig.Database = "unknown until it connects"
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		c.Database = name
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for _, table := range tables {
		if _, err := pool.Exec(t.Context(), `create table `+table+` (id uuid primary key, version bigint not null, title text not null)`); err != nil {
			t.Fatal(err)
		}
	}
	if err := subscribe.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return pool
}

func books(t *testing.T, pool *pgxpool.Pool, table string) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select count(*) from `+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs a subscriber to the books, and returns it and what ends it.
func run(t *testing.T, pool *pgxpool.Pool, name string, f subscribe.Feed) (s *subscribe.Subscriber, stop func()) {
	t.Helper()
	f.Name, f.Schedule = "books", "@every 1s"
	s, err := subscribe.New(t.Context(), pool, subscribe.Options{Name: name}, f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return s, stop
}

func caughtUp(t *testing.T, s *subscribe.Subscriber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
}

// Two subscribers live in one program, by one pool that is the program's: a pure copy, and one with an Apply of its
// own.
func TestSubscribersInAProgram(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	l.add(t, 25)
	pool := newShop(t, "book", "title")
	pure, stop := run(t, pool, "pure", subscribe.Feed{URL: l.url(), Table: "book", Columns: []string{"title"}})
	own, stopOwn := run(t, pool, "own", subscribe.Feed{
		URL: l.url() + "/", Table: "title",
		Apply: func(ctx context.Context, tx pgx.Tx, b *subscribe.Batch) error {
			return b.Upsert(ctx, tx, "title", "title")
		},
	})
	for table, s := range map[string]*subscribe.Subscriber{"book": pure, "title": own} {
		if caughtUp(t, s); books(t, pool, table) != 25 {
			t.Errorf("%s has %d books when it has caught up", table, books(t, pool, table))
		}
	}

	registry := prometheus.NewPedanticRegistry()
	for name, s := range map[string]*subscribe.Subscriber{"pure": pure, "own": own} {
		prometheus.WrapRegistererWith(prometheus.Labels{"subscriber": name}, registry).MustRegister(s)
	}
	if families, err := registry.Gather(); err != nil || len(families) == 0 {
		t.Errorf("metrics: %d, %v", len(families), err)
	}
	mux := http.NewServeMux()
	pages := subscribehttp.New(pure, subscribehttp.Options{Title: "Shop", Logger: discard})
	mux.Handle("/subscriptions/", pages)
	mux.Handle("/assets/", pages)
	const form = "application/x-www-form-urlencoded"
	for _, x := range []struct {
		method, path, body string
		header             []string
		status             int
		says               string
	}{
		{"GET", "/subscriptions/books", "", []string{"Accept", "text/html"}, 200, "<title>Subscription to books · Shop</title>"},
		{"GET", "/subscriptions/books", "", nil, 200, `"state":"fresh"`},
		{"HEAD", "/subscriptions/books", "", nil, 200, ""},
		{"GET", "/subscriptions/films", "", nil, 404, "Shop does not subscribe to a feed of this name."},
		{"GET", "/subscriptions/books/nowhere", "", nil, 404, "There is nothing at this address."},
		{"DELETE", "/subscriptions/books/rejected", "", nil, 405, "This address takes GET, HEAD, not DELETE."},
		{"POST", "/subscriptions/books/resync", "", []string{"Origin", "https://other.example"}, 403, "A page of another origin may not send this."},
		{"POST", "/subscriptions/books/schedule", "schedule=never", []string{"Content-Type", form}, 422, `"field":"schedule"`},
		{"POST", "/subscriptions/books/schedule", strings.Repeat("x", 65<<10), []string{"Content-Type", form}, 413, "at most 65536 bytes"},
		{"GET", "/assets/style.css", "", nil, 200, ":root"},
	} {
		request := httptest.NewRequestWithContext(t.Context(), x.method, x.path, strings.NewReader(x.body))
		for pair := range slices.Chunk(x.header, 2) {
			request.Header.Set(pair[0], pair[1])
		}
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, request)
		if text := answer.Body.String(); answer.Code != x.status || !strings.Contains(text, x.says) || strings.Contains(strings.ToLower(text), "edison") {
			t.Errorf("%s %s: %d %s", x.method, x.path, answer.Code, text)
		}
	}

	copied := pure.Subscription("books")
	if err := copied.Pause(t.Context()); err != nil || copied.Status().State != subscribe.Paused || own.Subscription("books").Status().State == subscribe.Paused {
		t.Errorf("%v: %+v", err, copied.Status())
	}
	l.add(t, 5)
	if err := copied.Poll(t.Context()); err != nil || books(t, pool, "book") != 30 {
		t.Errorf("after a poll that was asked for: %d books, %v", books(t, pool, "book"), err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := pure.CaughtUp(ctx); err == nil || err.Error() != "wait for the copy of books: enough" {
		t.Errorf("while it is paused: %v", err)
	}
	stop()
	stopOwn()
	if pool.Ping(t.Context()) != nil {
		t.Error("the program's pool is closed")
	}
	if pure.Subscription("others") != nil {
		t.Error("there is a subscription to another feed")
	}
}

// CaughtUp waits for a source that is down, and in a second process for what the first one does.
func TestCaughtUp(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many polls")
	l := newLibrary(t)
	l.add(t, 25)
	l.close()
	pool := newShop(t, "book")
	f := subscribe.Feed{URL: l.url(), Table: "book", Columns: []string{"title"}}
	first, stop := run(t, pool, "shop", f)
	await(t, "the first poll fails", func() bool { return first.Status()[0].FailingSince != nil })
	second, _ := run(t, pool, "shop", f)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 2)
	for _, s := range []*subscribe.Subscriber{first, second} {
		go func() { waiting <- s.CaughtUp(ctx) }()
	}
	await(t, "the second one stands by", func() bool { s := second.Status()[0]; return s.Standby && !s.Detail.Unknown && s.FailingSince != nil })
	if len(waiting) > 0 {
		t.Fatalf("without a source one has caught up: %v", <-waiting)
	}
	l.open(t)
	for range 2 {
		if err := <-waiting; err != nil || books(t, pool, "book") != 25 {
			t.Errorf("%v; there are %d books", err, books(t, pool, "book"))
		}
	}
	cancel()
	stop()
	await(t, "the second one polls", func() bool { return !second.Status()[0].Standby })
	l.add(t, 5)
	if err := second.Subscription("books").Poll(t.Context()); err != nil || books(t, pool, "book") != 30 {
		t.Errorf("%v; there are %d books", err, books(t, pool, "book"))
	}
}

// What a program has declared wrongly is an error of New that says so.
func TestWrongOptions(t *testing.T) {
	t.Parallel()
	pool := newShop(t, "book")
	right := subscribe.Feed{Name: "books", URL: "http://localhost:1/feeds/books", Schedule: "@hourly", Table: "book", Columns: []string{"title"}}
	for want, change := range map[string]func(*subscribe.Options, *subscribe.Feed){
		"needs a name":                        func(o *subscribe.Options, _ *subscribe.Feed) { o.Name = "" },
		"PageSize is 1001":                    func(o *subscribe.Options, _ *subscribe.Feed) { o.PageSize = 1001 },
		"Wait is 1.5s":                        func(o *subscribe.Options, _ *subscribe.Feed) { o.Wait = 1500 * time.Millisecond },
		"its URL takes the http or https URL": func(_ *subscribe.Options, f *subscribe.Feed) { f.URL = "books.example" },
		`"often" is not a schedule`:           func(_ *subscribe.Options, f *subscribe.Feed) { f.Schedule = "often" },
		"would be sent to books.example without TLS": func(o *subscribe.Options, f *subscribe.Feed) {
			o.Token, f.URL = "secret", "http://books.example/feeds/books"
		},
	} {
		options, f := subscribe.Options{Name: "shop"}, right
		change(&options, &f)
		if _, err := subscribe.New(t.Context(), pool, options, f); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := subscribe.New(t.Context(), pool, subscribe.Options{Name: "shop"}, right); err != nil {
		t.Error(err)
	}
}

// A program in a module of its own copies a feed, while its source goes and comes again.
func TestProgramOfAStranger(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	l.add(t, 25)
	pool := pgtest.New(t)
	program := exec.CommandContext(t.Context(), outsideModule(t, "testdata/copier"))
	program.Env = append(os.Environ(), "DATABASE_URL="+pgtest.URL(pool), "FEED_URL="+l.url())
	var said bytes.Buffer
	program.Stdout, program.Stderr = &said, &said
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	has := func(n int) func() bool {
		return func() bool {
			var got int
			return pool.QueryRow(t.Context(), `select count(*) from book where title = 'A book'`).Scan(&got) == nil && got == n
		}
	}
	await(t, "the books are copied", has(25))
	l.close()
	l.add(t, 10)
	await(t, "a poll fails", func() bool {
		var failing bool
		return pool.QueryRow(t.Context(), `select failing_since is not null from subscription`).Scan(&failing) == nil && failing
	})
	l.open(t)
	await(t, "the new ones are copied", has(35))
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil {
		t.Error(err)
	}
	if text := said.String(); !strings.Contains(text, "the shop knows all books") || strings.Contains(strings.ToLower(text), "edison") {
		t.Errorf("it says:\n%s", text)
	}
}

// outsideModule builds the program in a folder as a module that takes this one as it stands here, and returns its
// binary.
func outsideModule(t *testing.T, folder string) string {
	t.Helper()
	if _, err := os.Stat("../../vendor"); err == nil {
		t.Skip("modules are vendored: a module of its own cannot use them")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	module := "module shop.example\n\ngo 1.26\n\nrequire github.com/edison-cars/data-feeds v0.0.0\n\nreplace github.com/edison-cars/data-feeds => " + root + "\n"
	for name, text := range map[string][]byte{"go.mod": []byte(module), "go.sum": sums} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Slow(t, "a build")
	binary := filepath.Join(dir, "program")
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", binary, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return binary
}

// await waits up to a minute for a condition.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// The subscriber brings no pages, server or broker to a program.
func TestDependencies(t *testing.T) {
	t.Parallel()
	list, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(list)) {
		for _, not := range []string{"html/template", "github.com/gin-gonic/", "github.com/rabbitmq/", "github.com/edison-cars/data-feeds/shared/web"} {
			if strings.HasPrefix(path, not) {
				t.Errorf("it imports %s", path)
			}
		}
	}
}
