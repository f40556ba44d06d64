package subscriber

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/eventstream"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var discard = slog.New(slog.DiscardHandler)

// await waits up to a minute for a condition.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env                   map[string]string
		url, schedule, source string
	}{
		{nil, "http://127.0.0.1:1/feeds/things", "@every 1s", ""},
		{map[string]string{"FEED_URL_THINGS": "", "POLL_THINGS": ""}, "http://127.0.0.1:1/feeds/things", "@every 1s", ""},
		{map[string]string{"FEED_URL_THINGS": "https://cars.example/feeds/things/"}, "https://cars.example/feeds/things", "@every 1s", ""},
		{map[string]string{"POLL_THINGS": "*/5 * * * *"}, "http://127.0.0.1:1/feeds/things", "*/5 * * * *", "environment"},
	} {
		f := subscribe.Feed{Name: "things", URL: "http://127.0.0.1:1/feeds/things", Schedule: "@every 1s"}
		if err := new(Service).configure(&f, c.env, readerSettings{}, discard); err != nil {
			t.Error(err)
		}
		if f.URL != c.url || f.Schedule != c.schedule || f.ScheduleSource != c.source {
			t.Errorf("%v: %s, %s by %q", c.env, f.URL, f.Schedule, f.ScheduleSource)
		}
	}
}

func TestSourcesOf(t *testing.T) {
	t.Parallel()
	f := subscribe.Feed{Name: "things", URL: "http://127.0.0.1:1/feeds/things", Schedule: "@every 1s"}
	for _, c := range []struct{ url, stream, want string }{
		{"", "", "=http://127.0.0.1:1/feeds/things"},
		{"http://a.example/feeds/things", "amqp://a.example", "=http://a.example/feeds/things things.things"},
		{"http://a.example/x=y", "", "=http://a.example/x=y"},
		{"eu=http://a.example/feeds/things", "", "eu=http://a.example/feeds/things"},
		{" eu=http://a.example/x=1/  us-2=https://b.example/things ", "us-2=amqp://b.example", "eu=http://a.example/x=1, us-2=https://b.example/things things.things.us-2"},
		{"eu=http://a.example/x us", "", "FEED_URL_THINGS takes a value, or values of sources with names: eu=VALUE us=VALUE"},
		{"=http://a.example/x", "", "FEED_URL_THINGS takes a value, or values of sources with names: eu=VALUE us=VALUE"},
		{"eu=http://a.example/x eu=http://b.example/x", "", "FEED_URL_THINGS has the source eu twice"},
		{"EU=http://a.example/x", "", "FEED_URL_THINGS takes values of sources with names, eu=VALUE us=VALUE: a source has a name of up to 32 characters a-z, 0-9 and -, which begins with a letter, not \"EU\""},
		{"eu=a.example", "", "FEED_URL_THINGS takes the http or https URL of a feed without query, such as http://localhost:8080/feeds/orders"},
		{"eu=http://a.example/x", "amqp://a.example", "STREAM_THINGS takes a stream for each source: eu=amqp://..."},
		{"http://a.example/x", "eu=amqp://a.example", "STREAM_THINGS: FEED_URL_THINGS has no source eu"},
	} {
		env := map[string]string{"FEED_URL_THINGS": c.url, "STREAM_THINGS": c.stream}
		sources, err := sourcesOf(f, env)
		var got []string
		for _, of := range sources {
			if failed := (&Service{Name: "things"}).configure(&of, env, readerSettings{}, discard); failed != nil {
				err = failed
			}
			text := of.Source + "=" + of.URL
			if queue, ok := of.Stream.(*eventstream.Queue); ok {
				text += " " + queue.Name
			}
			got = append(got, text)
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%q and %q: %q, not %q", c.url, c.stream, got, c.want)
		}
	}
}

func TestAny(t *testing.T) {
	t.Parallel()
	s := &Service{
		Feeds: []subscribe.Feed{{Name: "orders", URL: "http://localhost:8080/feeds/orders"}},
		Any:   func(name string) subscribe.Feed { return subscribe.Feed{Name: name} },
	}
	for _, test := range []struct{ set, want string }{
		{"", "orders"}, {"FEED_URL_ORDERS", "orders"}, {"FEED_URL_BUILDS", "builds"}, {"FEED_URL_CAR_PARTS FEED_URL_ORDERS FEED_TOKEN", "car-parts orders"},
	} {
		env := map[string]string{"FEED_URL_NOTHING": ""}
		for name := range strings.FieldsSeq(test.set) {
			env[name] = "http://localhost:1/feeds/x"
		}
		var names []string
		for _, f := range s.feeds(env) {
			names = append(names, f.Name)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("with %q it takes %q, not %q", test.set, got, test.want)
		}
	}
	s.Any = nil
	if got := s.feeds(map[string]string{"FEED_URL_BUILDS": "x"}); len(got) != 1 || got[0].Name != "orders" {
		t.Errorf("another service takes %+v", got)
	}
}

// Requests of one client beyond its share are refused, and leave room for those of another one.
func TestShareOfReads(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	release := make(chan struct{})
	var set service.Settings
	if err := daemon.Parse(map[string]string{"ACCESS": "open", "ACCESS_LOG": "false"}, &set); err != nil {
		t.Fatal(err)
	}
	router, err := service.NewRouter(service.Service{Name: "test", Title: "Test"}, set, pool, discard)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := subscribe.New(t.Context(), pool, subscribe.Options{Name: "test", Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	site := NewSite(&Service{Title: "Test", Routes: func(s *Site) {
		s.JSON("/api/slow", func(*http.Request) (any, error) {
			<-release
			return 1, nil
		})
	}}, router, nil)
	site.Route(sub)
	server := httptest.NewServer(router.Engine)
	t.Cleanup(server.Close)
	finish := sync.OnceFunc(func() { close(release) })
	t.Cleanup(finish)
	ask := func(from string) int {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
		resp, err := client.Get(server.URL + "/api/slow")
		if err != nil {
			t.Error(err)
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for _, path := range []string{"/none", "/subscriptions/none", "/subscriptions/none/rejected"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/html")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(page), `<a href="/">Overview</a>`) || !strings.Contains(string(page), "Edison <strong>Test</strong>") {
			t.Errorf("%s: %d %s (%v)", path, resp.StatusCode, page, err)
		}
	}
	var all sync.WaitGroup
	for range maxQueued / 4 {
		all.Go(func() { ask("127.0.0.1") })
	}
	await(t, "its share is taken", func() bool { return site.queued.Taken() == maxQueued/4 })
	if status := ask("127.0.0.1"); status != http.StatusTooManyRequests {
		t.Fatalf("beyond its share a client gets %d", status)
	}
	all.Go(func() {
		if status := ask("127.0.0.2"); status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Errorf("another client gets %d", status)
		}
	})
	await(t, "another client waits", func() bool { return site.queued.Taken() == maxQueued/4+1 })
	finish()
	all.Wait()
}
