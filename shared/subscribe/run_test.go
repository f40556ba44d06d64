package subscribe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// service copies things by default from a port where nobody is.
func thingService() *Service {
	return &Service{
		Name: "test", Title: "Test", Text: "copies things", Addr: "127.0.0.1:0", Migrations: thingMigrations,
		Feeds:  []Feed{{Name: "things", URL: "http://127.0.0.1:1/feeds/things", Schedule: "@every 1s", Table: "thing", Apply: copyThings}},
		Routes: routeThings,
	}
}

// A journal is a log that can be read while it is written.
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

// start runs the service and gives its address and what stops it.
func start(t testing.TB, env map[string]string) (url string, stop func() error, log *journal) {
	t.Helper()
	return startService(t, thingService(), env)
}

func startService(t testing.TB, s *Service, env map[string]string) (url string, stop func() error, log *journal) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log, ended := new(journal), make(chan error, 1)
	open := map[string]string{"ACCESS": "open"}
	maps.Copy(open, env)
	go func() { ended <- s.Run(ctx, open, log) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	eventually(t, "it listens", func() bool { return listening.MatchString(log.String()) || len(ended) > 0 })
	if len(ended) > 0 {
		t.Fatalf("it ended: %v\n%s", stop(), log)
	}
	return listening.FindStringSubmatch(log.String())[1], stop, log
}

func status(t testing.TB, url string) int {
	resp, _ := get(t, url, "*/*")
	return resp.StatusCode
}

// Not parallel: it counts goroutines.
func TestRunWithASourceThatComesAndGoes(t *testing.T) {
	pgtest.Slow(t, "timeouts")
	s := newSource(t)
	addr := s.Listener.Addr().String()
	s.put(t, 1, 25)
	s.Close()
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	copied := func(n int) func() bool {
		return func() bool {
			var have int
			return pool.QueryRow(t.Context(), `select count(*) from thing`).Scan(&have) == nil && have == n
		}
	}
	env := map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": "http://" + addr + "/feeds/things/", "PAGE_SIZE": "10"}
	url, stop, log := start(t, env)
	eventually(t, "the poll at the start fails", func() bool { return strings.Contains(log.String(), "poll failed") })
	if live, ready := status(t, url+"/livez"), status(t, url+"/readyz"); live != 200 || ready != 503 {
		t.Errorf("without a source: alive %d, ready %d", live, ready)
	}
	s.serve(t, addr)
	eventually(t, "ready with a source", func() bool { return status(t, url+"/readyz") == 200 })
	if !copied(25)() {
		t.Error("it is ready without a whole copy")
	}
	if !strings.Contains(log.String(), "polls succeed again") {
		t.Errorf("the log does not say that the source is back:\n%s", log)
	}
	s.put(t, 26, 40)
	eventually(t, "what is new is copied on schedule", copied(40))
	s.Close()
	eventually(t, "the source is missed", func() bool { return strings.Count(log.String(), "poll failed") >= 2 })
	if _, text := get(t, url+"/api/things", "*/*"); strings.TrimSpace(text) != "40" {
		t.Errorf("without its source it answers %s", text)
	}

	if err := stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if strings.Contains(log.String(), "canceled") {
		t.Errorf("the stop is logged as an error:\n%s", log)
	}

	s.put(t, 41, 41)
	s.serve(t, addr)
	s.exchanges()
	http.DefaultClient.CloseIdleConnections()
	before := runtime.NumGoroutine()
	url, stop, _ = start(t, env)
	eventually(t, "the next run goes on", copied(41))
	if asked := s.exchanges(); !strings.HasPrefix(asked[0].query, "after=40-") {
		t.Errorf("the next run asked %v", asked)
	}
	if got := status(t, url+"/readyz"); got != 200 {
		t.Errorf("ready: %d", got)
	}
	if err := stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func TestRunWithAToken(t *testing.T) {
	t.Parallel()
	const token = "datafeed_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	s := newSource(t)
	s.put(t, 1, 3)
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		honest.ServeHTTP(w, r)
	})
	for sent, says := range map[string]string{token: "copied", token + "X": "401 Unauthorized"} {
		pool := pgtest.New(t, sql.Migrations("subscribe"))
		url, stop, log := start(t, map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL(), "FEED_TOKEN": sent, "LOG_LEVEL": "debug"})
		eventually(t, "the log says "+says, func() bool { return strings.Contains(log.String(), says) })
		if _, text := get(t, url+"/subscriptions", "application/json"); strings.Contains(text+log.String(), "datafeed_") {
			t.Errorf("the token shows:\n%s\n%s", text, log)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	badURL := "FEED_URL_THINGS takes the http or https URL of a feed without query, such as http://localhost:8080/feeds/orders"
	for _, c := range []struct{ name, value, says string }{
		{"PAGE_SIZE", "0", "PAGE_SIZE: takes a whole number from 1 to 1000"},
		{"PAGE_SIZE", "1001", "PAGE_SIZE: takes a whole number from 1 to 1000"},
		{"PAGE_SIZE", "many", "PAGE_SIZE: takes a whole number from 1 to 1000"},
		{"LOG_LEVEL", "loud", `LOG_LEVEL: takes debug, info, warn or error, not "loud"`},
		{"FEED_TOKEN", "secret token", "FEED_TOKEN takes a token"},
		{"FEED_TOKEN", "secret\n", "FEED_TOKEN takes a token"},
		{"POLL_THINGS", "often", `POLL_THINGS: "often" is not a schedule: `},
		{"POLL_THINGS", "@every 100ms", "at least 1s"},
		{"FEED_URL_THINGS", "http://reader:secret@cars.example/feeds/things", "FEED_URL_THINGS: the user in the URL would be sent to cars.example without TLS: take an https URL or"},
		{"PLAIN_HOSTS", "cars.example:80", "PLAIN_HOSTS: takes names or addresses of hosts without ports"},
		{"FEED_URL_THINGS", "localhost:8080/feeds/things", badURL},
		{"FEED_URL_THINGS", "/feeds/things", badURL},
		{"FEED_URL_THINGS", "ftp://localhost/feeds/things", badURL},
		{"FEED_URL_THINGS", "http:///feeds/things", badURL},
		{"FEED_URL_THINGS", "http://localhost/feeds/things?after=0", badURL},
		{"FEED_URL_THINGS", "http://localhost/feeds/things?", badURL},
		{"FEED_URL_THINGS", "http://localhost/feeds/things#x", badURL},
		{"FEED_URL_THINGS", "http://reader:secret@local host/", badURL},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			err := thingService().Run(t.Context(), map[string]string{c.name: c.value}, new(journal))
			if !errors.Is(err, daemon.ErrUsage) || !strings.Contains(fmt.Sprint(err), c.says) || strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("a token in the clear", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		asked := s.exchanges()
		env := map[string]string{
			"DATABASE_URL": pgtest.URL(pgtest.New(t)), "FEED_TOKEN": "datafeed_SECRET", "ADDR": "127.0.0.1:0",
			"FEED_URL_THINGS": strings.Replace(s.feedURL(), "127.0.0.1", "0.0.0.0", 1), // which leads to this machine, and is none of its names
		}
		err := thingService().Run(t.Context(), env, new(journal))
		const want = "FEED_URL_THINGS: FEED_TOKEN would be sent to 0.0.0.0 without TLS: take an https URL or, if all of the network on the way is private, name the host in PLAIN_HOSTS"
		if !errors.Is(err, daemon.ErrUsage) || err.Error() != want || len(s.exchanges()) > len(asked) {
			t.Errorf("%v", err)
		}
		env["PLAIN_HOSTS"] = "sales 0.0.0.0"
		_, stop, log := start(t, env)
		eventually(t, "the feed is copied", func() bool { return strings.Contains(log.String(), "copied") })
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("an address that is in use", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		err = thingService().Run(t.Context(), map[string]string{"ADDR": ln.Addr().String()}, new(journal))
		if err == nil || errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), "is in use") {
			t.Errorf("%v", err)
		}
	})
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var help bytes.Buffer
	thingService().Help(&help)
	for _, part := range []string{
		"test: copies things", "\n  ADDR ", "127.0.0.1:0", "DATABASE_URL", "PAGE_SIZE", "1000", "FEED_TOKEN", "LOG_LEVEL",
		"FEED_URL_THINGS", "http://127.0.0.1:1/feeds/things", "POLL_THINGS", "@every 1s",
	} {
		if !strings.Contains(help.String(), part) {
			t.Errorf("without %q:\n%s", part, help.String())
		}
	}
}

func TestWork(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	var set struct {
		Name string `env:"THING_NAME" envDefault:"unnamed" help:"of what Work makes"`
	}
	s := thingService()
	s.Settings = &set
	calls := 0
	s.Work = func(ctx context.Context, site *Site) error {
		switch calls++; calls {
		case 1:
			return errors.New("not yet")
		case 2:
			panic("neither")
		}
		_, err := site.DB.Exec(ctx, `insert into thing (id, version, name) values (gen_random_uuid(), 1, $1)`, set.Name)
		return err
	}
	var help strings.Builder
	if s.Help(&help); !strings.Contains(help.String(), "THING_NAME") {
		t.Errorf("no word of the service's own setting:\n%s", help.String())
	}
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	_, stop, log := startService(t, s, map[string]string{"DATABASE_URL": pgtest.URL(pool), "THING_NAME": "made"})
	eventually(t, "the work is done twice", func() bool { return count(t, pool, `select count(*) from thing where name = 'made'`) == 2 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, said := range []string{"not yet", "work panicked: a value of type string"} {
		if !strings.Contains(log.String(), said) {
			t.Errorf("the log does not say %q:\n%s", said, log)
		}
	}
}

// A pool in whose statements the types of arguments are not known cannot serve a copy.
func TestPoolsThatKnowNoTypes(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	for mode, refused := range map[string]bool{"exec": true, "simple_protocol": true, "describe_exec": false, "cache_describe": false} {
		other, err := pgxpool.New(t.Context(), pgtest.URL(pool)+"&default_query_exec_mode="+mode)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if _, err := New(t.Context(), other, Options{Name: "test"}); (err != nil) != refused || refused && !strings.Contains(err.Error(), "default_query_exec_mode") {
			t.Errorf("%s: %v", mode, err)
		}
	}
}
