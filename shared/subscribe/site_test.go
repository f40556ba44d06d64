package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
)

var thingsPage = web.Template(fstest.MapFS{"things.html": {Data: []byte(`{{define "main"}}<p>{{.Data}} things</p>{{end}}`)}}, "things.html")

// countThings is what the service of these tests shows.
func countThings(s *Site) func(*http.Request) (any, error) {
	return func(r *http.Request) (n any, err error) {
		return n, s.DB.QueryRow(r.Context(), `select count(*) from thing`).Scan(&n)
	}
}

// site serves the copy.
func (c *copier) site(t testing.TB, routes func(*Site)) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(Outside.Serve(t, &Subscriber{pool: c.pool, pollers: []*poller{c.poller}}, c.pool, routes))
	t.Cleanup(server.Close)
	return server
}

func routeThings(s *Site) {
	s.Page("/", "Things", thingsPage, countThings(s))
	s.JSON("/api/things", countThings(s))
}

// attempt polls as run does.
func (c *copier) attempt() error {
	err := c.poll(context.Background())
	c.state.after(err, time.Now())
	return err
}

func TestSubscriptionsJSON(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	want := func(about string, wanted map[string]any) {
		t.Helper()
		resp, text := get(t, server.URL+"/subscriptions", "application/json")
		var list []map[string]any
		if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != 1 || resp.StatusCode != 200 {
			t.Fatalf("%s: %s: %s: %v", about, resp.Status, text, err)
		}
		keys := slices.Sorted(maps.Keys(list[0]))
		if fmt.Sprint(keys) != "[as_of catching_up cost cursor failing_since feed generation lag_entries last_error last_success_at next_polls page_size rejected_entries resync_reason resync_since resynced_at schedule schedule_source standby state stream url wait]" {
			t.Errorf("%s: the fields are %v", about, keys)
		}
		for name, value := range wanted {
			if got := list[0][name]; fmt.Sprint(got) != fmt.Sprint(value) {
				t.Errorf("%s: %s is %v, not %v", about, name, got, value)
			}
		}
		polls := list[0]["next_polls"].([]any)
		if len(polls) != 5 || !slices.IsSortedFunc(polls, func(a, b any) int { return strings.Compare(a.(string), b.(string)) }) {
			t.Errorf("%s: next polls %v", about, polls)
		}
		for _, stamp := range regexp.MustCompile(`"\d{4}-[^"]*"`).FindAllString(text, -1) {
			if !regexp.MustCompile(`^"[-0-9]{10}T[:0-9]{8}\.\d{3}000Z"$`).MatchString(stamp) {
				t.Errorf("%s: the time %s is not in UTC, with six digits, and whole milliseconds", about, stamp)
			}
		}
		if got := resp.Header.Get("Cache-Control") + "; " + resp.Header.Get("Vary"); got != "private, no-cache; Accept" {
			t.Errorf("%s: %s", about, got)
		}
	}
	constant := map[string]any{"feed": "things", "url": s.feedURL(), "schedule": "@every 5s", "schedule_source": "default"}
	want("at the first start", constant)
	want("at the first start", map[string]any{"cursor": "0", "lag_entries": 0, "state": "stale", "as_of": nil, "last_success_at": nil, "last_error": nil})

	s.setTamper(answered(503, `{"detail":"Closed for today."}`, "Content-Type", "application/problem+json"))
	_ = c.attempt()
	want("while the source refuses", map[string]any{"state": "stale", "last_error": "the source answered 503 Service Unavailable: Closed for today."})
	s.setTamper(nil)

	apply := c.Apply
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		return errors.Join(apply(ctx, tx, b), []error{nil, errors.New("no room")}[len(c.applied)-1])
	}
	_ = c.attempt()
	want("on the way", map[string]any{"cursor": c.stored(t).cursor, "lag_entries": 15, "state": "stale", "as_of": nil})
	c.Apply = apply
	if err := c.attempt(); err != nil {
		t.Fatal(err)
	}
	stamp := func(t time.Time) string { return t.UTC().Format(web.TimeFormat) }
	at := c.stored(t)
	want("up to date", map[string]any{"cursor": s.head(t).Cursor(), "lag_entries": 0, "state": "fresh", "as_of": stamp(at.asOf), "last_success_at": stamp(at.lastSuccess), "last_error": nil})
	want("up to date", constant)
	if c.state.copied.asOf != at.asOf || c.state.copied.lastSuccess != at.lastSuccess {
		t.Error("what is shown is not what is stored")
	}
}

func TestCopiesSayHowOldTheyAre(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	want := func(header, banner, shown string) {
		t.Helper()
		resp, text := get(t, server.URL+"/api/things", "*/*")
		if got := resp.Header.Get("Datafeed-Copy"); got != header || resp.Header.Get("Cache-Control") != "private, no-cache" {
			t.Errorf("Datafeed-Copy is %s, not %s; %s", got, header, resp.Header.Get("Cache-Control"))
		}
		if strings.TrimSpace(text) != shown {
			t.Errorf("it answers %s, not %s", text, shown)
		}
		for _, path := range []string{"/", "/subscriptions"} {
			resp, text := get(t, server.URL+path, "text/html,application/xhtml+xml,*/*;q=0.8")
			if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !strings.Contains(text, banner) {
				t.Errorf("%s: %s, %s, without %s: %s", path, resp.Status, resp.Header.Get("Content-Type"), banner, text)
			}
			if path == "/" && !strings.Contains(text, "<p>"+shown+" things</p>") {
				t.Errorf("it does not show %s: %s", shown, text)
			}
		}
	}
	want("things; state=stale", `<p class="banner stale"><strong role="status">things: no copy yet.`, "0")
	if err := c.attempt(); err != nil {
		t.Fatal(err)
	}
	asOf := func() string { return `; as_of="` + c.stored(t).asOf.UTC().Format(web.TimeFormat) + `"` }
	want("things; state=fresh"+asOf(), `<summary><strong>things: fresh</strong>, `, "3")

	// An hour later, with the source gone, and after a restart.
	exec(t, c.pool, `update subscription set as_of = date_trunc('second', as_of) - interval '1 hour', last_success_at = last_success_at - interval '1 hour'`)
	s.setTamper(answered(503, `{"detail":"Closed. Come back."}`, "Content-Type", "application/problem+json"))
	again := s.copier(t, c.pool, 10)
	defer again.fetcher.client.Close()
	again.stored(t)
	server = again.site(t, routeThings)
	want("things; state=stale"+asOf(), `<p class="banner stale"><strong role="status">things: stale.</strong>`, "3")
	if err := again.attempt(); err == nil {
		t.Fatal("it got an answer")
	}
	failing := `; failing_since="` + again.state.copied.failingSince.UTC().Format(web.TimeFormat) + `"`
	want("things; state=stale"+asOf()+failing, ", polls fail since ", "3")
	want("things; state=stale"+asOf()+failing, "The source answered 503 Service Unavailable. Next try <time ", "3")
	s.setTamper(answered(410, ``))
	_ = again.attempt()
	want("things; state=diverged"+asOf()+failing, `<strong role="status">things: diverged, polls fail since `, "3")
}

// What a page shows may be newer than it says, never older.
func TestNoCopyClaimsToBeNewerThanItIs(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	c := newCopier(t, s)
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		w.Header().Set("Age", "3600")
		honest.ServeHTTP(w, r)
	})
	c.mustPoll(t)
	s.setTamper(nil)
	old := c.stored(t).asOf
	server := c.site(t, func(site *Site) {
		slow := func(r *http.Request) (any, error) {
			n, err := countThings(site)(r)
			c.mustPoll(t)
			return n, err
		}
		site.JSON("/api/things", slow)
		site.Page("/", "Things", thingsPage, slow)
	})
	if resp, _ := get(t, server.URL+"/api/things", "*/*"); !strings.Contains(resp.Header.Get("Datafeed-Copy"), old.UTC().Format(web.TimeFormat)) {
		t.Errorf("read before the copy of %v was renewed, it says %s", old, resp.Header.Get("Datafeed-Copy"))
	}
	exec(t, c.pool, `update subscription set as_of = $1`, old)
	c.stored(t)
	if _, text := get(t, server.URL+"/", "*/*"); !strings.Contains(text, old.UTC().Format(web.TimeFormat)) {
		t.Errorf("read before the copy of %v was renewed, it says %s", old, text)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	want := func(path string, status int, text string) {
		t.Helper()
		if resp, got := get(t, server.URL+path, "*/*"); resp.StatusCode != status || !strings.Contains(got, text) {
			t.Errorf("%s: %s: %s", path, resp.Status, got)
		}
	}
	want("/livez", 200, "ok")
	want("/readyz", 503, "there is no copy of the feed things yet")
	c.mustPoll(t)
	want("/readyz", 200, "ok")

	s.Close()
	if err := c.attempt(); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Fatal(err)
	}
	exec(t, c.pool, `update subscription set as_of = as_of - interval '1 year', last_success_at = last_success_at - interval '1 year'`)
	c.stored(t)
	want("/readyz", 200, "ok")
	want("/api/things", 200, "3")

	name := c.pool.Config().ConnConfig.Database
	admin := c.pool.Config().ConnConfig
	admin.Database = "postgres"
	conn, err := pgx.ConnectConfig(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `alter database `+name+` allow_connections false`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready without its database", func() bool {
		resp, _ := get(t, server.URL+"/readyz", "*/*")
		return resp.StatusCode == 503
	})
	want("/livez", 200, "ok")
	if err := c.attempt(); err == nil || !strings.Contains(err.Error(), "read how far the copy of things is") {
		t.Error(err)
	}
	want("/subscriptions", 200, `"state":"stale"`)
	if _, err := conn.Exec(t.Context(), `alter database `+name+` allow_connections true`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready again", func() bool {
		resp, _ := get(t, server.URL+"/readyz", "*/*")
		return resp.StatusCode == 200
	})
}

func TestPasswordOfTheSource(t *testing.T) {
	t.Parallel()
	for secret, shown := range map[string]string{"reader:secret": "reader:xxxxx@", "secret": "xxxxx@"} { // some sources take a key as the user
		s := newSource(t)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if user, password, _ := r.BasicAuth(); strings.TrimSuffix(user+":"+password, ":") != secret {
				answered(401, "")(w, r, nil)
				return
			}
			honest.ServeHTTP(w, r)
		})
		c := newCopier(t, s)
		things := c.Feed
		things.URL = strings.Replace(s.feedURL(), "//", "//"+secret+"@", 1)
		var err error
		if c.poller, err = newPoller(c.pool, Options{Name: "test", PageSize: 10, Logger: discard}, things); err != nil {
			t.Fatal(err)
		}
		server := c.site(t, routeThings)
		c.mustPoll(t)
		c.mustPoll(t)
		if asked := s.exchanges(); asked[len(asked)-1].status != http.StatusNotModified {
			t.Errorf("asked %v", asked)
		}
		s.Close()
		_ = c.attempt()
		said := ""
		for _, accept := range []string{"text/html", "application/json"} {
			_, text := get(t, server.URL+"/subscriptions", accept)
			said += text
		}
		if said += fmt.Sprint(c.stored(t), c.state.last.err); strings.Contains(said, "secret") || !strings.Contains(said, shown) {
			t.Errorf("the secret, or not even that there is one, is shown: %s", said)
		}
		if at := c.stored(t); at.cursor != (feed.Cursor{}) || at.etag == "" {
			t.Errorf("progress %+v", at)
		}
	}
}

// Many slow pages leave connections to the database for health and for the poll.
func TestSlowPagesLeaveRoom(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	s := newSource(t)
	s.put(t, 1, 3)
	c := newCopier(t, s)
	c.mustPoll(t)
	blocked := make(chan struct{}, 1000)
	server := c.site(t, func(s *Site) {
		s.JSON("/api/slow", func(r *http.Request) (any, error) {
			conn, err := s.DB.Acquire(r.Context())
			if err != nil {
				return nil, err
			}
			defer conn.Release()
			blocked <- struct{}{}
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		s.JSON("/api/things", countThings(s))
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	most := int(c.pool.Config().MaxConns)
	var all sync.WaitGroup
	for range most {
		all.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/slow", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
					t.Errorf("%s, want 503", resp.Status)
				}
			}
		})
	}
	for range most / 2 {
		<-blocked
	}
	if resp, body := get(t, server.URL+"/readyz", "*/*"); resp.StatusCode != 200 {
		leave()
		t.Fatalf("not ready: %s %s", resp.Status, body)
	}
	if resp, body := get(t, server.URL+"/api/things", "*/*"); resp.StatusCode != 503 {
		t.Errorf("a page that has no turn: %s %s", resp.Status, body)
	}
	s.put(t, 4, 5)
	c.mustPoll(t)
	leave()
	all.Wait()
	eventually(t, "the pages answer again", func() bool {
		resp, _ := get(t, server.URL+"/api/things", "*/*")
		return resp.StatusCode == 200
	})
}

// A service that shows nothing of its own has the pages that all have.
func TestNoRoutes(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	server := c.site(t, nil)
	for path, want := range map[string]int{"/": http.StatusOK, "/subscriptions": http.StatusOK, "/livez": http.StatusOK, "/things": http.StatusNotFound} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// A client that does not read what it asked for keeps no turn to read from others.
func TestDownloadsThatAreNotRead(t *testing.T) {
	t.Parallel()
	c := newCopier(t, newSource(t))
	server := c.site(t, func(s *Site) {
		routeThings(s)
		s.CSV("/things.csv", func(*http.Request) (iter.Seq2[[]string, error], error) {
			return func(yield func([]string, error) bool) {
				for row := []string{strings.Repeat("x", 1000)}; yield(row, nil); {
				}
			}, nil
		})
	})
	for range c.pool.Config().MaxConns {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/things.csv", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
	if resp, text := get(t, server.URL+"/api/things", "*/*"); resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", resp.Status, text)
	}
}
