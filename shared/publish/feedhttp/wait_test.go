package feedhttp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

func TestPreferredWait(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]time.Duration{
		"wait=10": 10 * time.Second, "wait=30": maxWait, "wait=31": maxWait, "wait=99999999999999999999": 0, `wait="7"`: 7 * time.Second,
		"return=minimal, Wait=3; foo": 3 * time.Second, "respond-async, wait = 4": 4 * time.Second, "wait=5, wait=9": 5 * time.Second,
		`foo="a, wait=5"`: 0, `foo="a, wait=5", wait=6`: 6 * time.Second, "": 0, "wait": 0, "wait=": 0, "wait=0": 0, "wait=-1": 0, "wait=soon": 0, "wait=1.5": 0, "waiting=10": 0, "return=wait": 0,
	} {
		if got := preferredWait([]string{field}); got != want {
			t.Errorf("%q: %v, want %v", field, got, want)
		}
	}
}

// A running source is one whose server is stopped like that of a process.
type running struct {
	*Source
	url    string
	shown  atomic.Int64 // entries that were put into words
	stop   context.CancelFunc
	served chan error
}

func run(t *testing.T, l *publish.Log) *running {
	t.Helper()
	return runWithin(t, l, web.Limits{})
}

func runWithin(t *testing.T, l *publish.Log, limits web.Limits) *running {
	t.Helper()
	return runAs(t, l, limits, description)
}

func runAs(t *testing.T, l *publish.Log, limits web.Limits, description feed.Description) *running {
	t.Helper()
	r, d := &running{served: make(chan error, 1)}, description
	d.Show = func(e feed.Entry) (feed.Shown, error) {
		r.shown.Add(1)
		return description.Show(e)
	}
	r.Source = sourceOf(l, Options{Name: "Test", PublicURL: publicURL, Limits: limits}, d)
	logger := slog.New(slog.DiscardHandler)
	engine := webserver.New(logger)
	if err := (webserver.Proxies{"127.0.0.1"}).Trust(engine); err != nil {
		t.Fatal(err)
	}
	webserver.GET(engine, "/feeds/*path", gin.WrapH(r.Source))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.url = "http://" + ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.served <- webserver.ServeListener(ctx, ln, engine, logger) }()
	t.Cleanup(func() {
		stop()
		if err := <-r.served; err != nil {
			t.Error(err)
		}
	})
	return r
}

// ask returns the answer to a request with headers given as name, value, name, value ...
func (r *running) ask(ctx context.Context, path string, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return plain.RoundTrip(req)
}

func (r *running) waitForWaiters(t *testing.T, n int) {
	t.Helper()
	waitFor(t, fmt.Sprint(n, " requests that wait"), func() bool { return testutil.ToFloat64(r.metrics.waiting) == float64(n) })
}

func commit(t *testing.T, l *publish.Log) {
	t.Helper()
	if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
		t.Error(err)
	}
}

// What those who wait will hear is made while PostgreSQL commits. They hear of it when it is committed, and not at all
// if it is not.
func TestForeseen(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 3)
	r := run(t, l)
	head, err := l.Snapshot(t.Context(), feedName)
	if err != nil {
		t.Fatal(err)
	}
	type heard struct {
		text string
		err  error
	}
	answered := make(chan heard, 1)
	go func() {
		resp, err := r.ask(context.Background(), "/feeds/things?after="+head.Cursor().String(), "Prefer", "wait=30")
		if err != nil {
			answered <- heard{"", err}
			return
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		answered <- heard{string(text), err}
	}()
	r.waitForWaiters(t, 1)
	waitFor(t, "what it waits for is to be foreseen", func() bool {
		return slices.ContainsFunc(r.resources.Values(), func(res *resource) bool { return res.awaited.Load() != nil })
	})
	wantSilence := func() {
		t.Helper()
		select {
		case a := <-answered:
			t.Fatalf("it was answered: %+v", a)
		default:
		}
	}

	refused := thing(uuid.New(), 1000)
	if err := l.Commit(t.Context(), put(refused)); err == nil {
		t.Fatal("it was not refused")
	}
	waitFor(t, "what is refused is foreseen", func() bool { return r.shown.Load() > 0 })
	wantSilence()
	before := r.shown.Load()

	other, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback(context.Background()) }()
	if _, err := other.Exec(t.Context(), `select from feed for update`); err != nil {
		t.Fatal(err)
	}
	e, committed := thing(uuid.New(), 1), make(chan error, 1)
	go func() { committed <- l.Commit(context.Background(), put(e)) }()
	waitFor(t, "what is being committed is foreseen", func() bool { return r.shown.Load() == before+1 })
	wantSilence()
	if err := errors.Join(other.Rollback(t.Context()), <-committed); err != nil {
		t.Fatal(err)
	}
	if a := <-answered; a.err != nil || !strings.Contains(a.text, e.ID.String()) || strings.Contains(a.text, refused.ID.String()) {
		t.Errorf("%+v", a)
	}
	if n := r.shown.Load(); n != before+1 {
		t.Errorf("it was made again: %d entries were put into words", n)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 150)
	r := run(t, l)
	tag := func(path string) string {
		resp, err := r.ask(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.Header.Get("ETag")
	}
	end := "/feeds/things?after=" + head(t, l).Cursor().String()

	t.Run("until something is appended", func(t *testing.T) {
		requests := [][]string{
			{end, "Prefer", "wait=30"},
			{end + "&limit=7", "Prefer", "return=minimal,wait=77"},
			{end, "Prefer", "wait=30", "If-None-Match", tag(end)},
			{"/feeds/things.atom", "Prefer", "wait=30", "If-None-Match", tag("/feeds/things.atom")},
			{"/feeds/things.json?after=0&limit=200", "Prefer", "wait=30", "If-None-Match", tag("/feeds/things.json?after=0&limit=200")},
		}
		var all sync.WaitGroup
		for _, request := range requests {
			all.Go(func() {
				resp, err := r.ask(t.Context(), request[0], request[1:]...)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || resp.Header.Get("Preference-Applied") != "wait=30" || !strings.Contains(string(body), "151") {
					t.Errorf("%v: %d %v %.200s", request, resp.StatusCode, resp.Header, body)
				}
			})
		}
		r.waitForWaiters(t, len(requests))
		commit(t, l)
		all.Wait()
		r.waitForWaiters(t, 0)
	})
	t.Run("not where something is there", func(t *testing.T) {
		for _, request := range [][]string{
			{end, "Prefer", "wait=30"},
			{"/feeds/things", "Prefer", "wait=30"},
			{"/feeds/things", "Prefer", "wait=30", "If-None-Match", `"other"`},
			{"/feeds/things?after=0&limit=50", "Prefer", "wait=30", "If-None-Match", tag("/feeds/things?after=0&limit=50")}, // final: in vain
		} {
			resp, err := r.ask(t.Context(), request[0], request[1:]...)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			final := strings.Contains(request[0], "limit=50")
			if applied := resp.Header.Get("Preference-Applied"); (applied == "") != final || (resp.StatusCode == 304) != final {
				t.Errorf("%v: %d, applied: %s", request, resp.StatusCode, applied)
			}
		}
	})
	t.Run("no longer than asked for", func(t *testing.T) {
		now := "/feeds/things?after=" + head(t, l).Cursor().String()
		for _, request := range [][]string{{now, "Prefer", "wait=1"}, {now, "Prefer", "wait=1", "If-None-Match", tag(now)}} {
			resp, err := r.ask(t.Context(), request[0], request[1:]...)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			want := 200
			if len(request) > 3 {
				want = 304
			}
			if err != nil || resp.StatusCode != want || resp.Header.Get("Preference-Applied") != "wait=1" || (want == 200) != strings.Contains(string(body), `"items":[]`) {
				t.Errorf("%v: %d %v %s", request, resp.StatusCode, resp.Header, body)
			}
		}
	})
	t.Run("not for a client that is gone", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if resp, err := r.ask(ctx, "/feeds/things?after="+head(t, l).Cursor().String(), "Prefer", "wait=30"); err == nil {
				_ = resp.Body.Close()
				t.Error("it was answered")
			}
		}()
		r.waitForWaiters(t, 1)
		leave()
		<-done
		r.waitForWaiters(t, 0)
	})
}

// Many wait for the same: one of them pays.
func TestManyWait(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	const many = 500
	r := runWithin(t, l, web.Limits{Waiting: web.Bound{All: many, Client: many}})
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			resp, err := r.ask(t.Context(), "/feeds/things?after=0", "Prefer", "wait=30")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), `"position":1`) {
				t.Errorf("%d %v %.100s", resp.StatusCode, err, body)
			}
		})
	}
	r.waitForWaiters(t, many)
	commit(t, l)
	all.Wait()
	r.waitForWaiters(t, 0)
	if n := testutil.ToFloat64(r.metrics.requests.WithLabelValues(feedName, "json", "200")); n != many || testutil.CollectAndCount(r.metrics.requests) != 2 { // and 304
		t.Errorf("%v requests of %d are counted, or other outcomes", n, many)
	}
	if n := r.shown.Load(); n != 1 {
		t.Errorf("the entry was put into words %d times", n)
	}
}

// A reader beyond its share, or beyond that of all, is answered at once, as one that does not ask to wait; others still
// wait.
func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 3)
	r := runWithin(t, l, web.Limits{Waiting: web.Bound{All: 10, Client: 4}})
	end := "/feeds/things?after=" + head(t, l).Cursor().String()
	var all sync.WaitGroup
	wait := func(client string, n int) {
		for i := range n {
			all.Go(func() {
				header := []string{"Prefer", "wait=30", "X-Forwarded-For", client}
				if i%2 == 0 {
					header = append(header, "Connection", "close") // waits in its handler
				}
				resp, err := r.ask(t.Context(), end, header...)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err != nil || resp.Header.Get("Preference-Applied") == "" || !strings.Contains(string(body), `"position":4`) {
					t.Errorf("%d %v %.100s", resp.StatusCode, err, body)
				}
			})
		}
	}
	notHeld := func(client string) {
		t.Helper()
		resp, err := r.ask(t.Context(), end, "Prefer", "wait=30", "X-Forwarded-For", client)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("Preference-Applied") != "" || !strings.Contains(string(body), `"items":[]`) {
			t.Errorf("%d %v %v %s", resp.StatusCode, resp.Header, err, body)
		}
	}
	wait("192.0.2.1", 4)
	r.waitForWaiters(t, 4)
	notHeld("192.0.2.1")
	wait("192.0.2.2", 4)
	wait("192.0.2.3", 2)
	r.waitForWaiters(t, 10)
	notHeld("192.0.2.4")
	commit(t, l)
	all.Wait()
	r.waitForWaiters(t, 0)
	end = "/feeds/things?after=" + head(t, l).Cursor().String()
	ctx, leave := context.WithCancel(t.Context())
	for range 4 {
		all.Go(func() {
			if resp, err := r.ask(ctx, end, "Prefer", "wait=30", "X-Forwarded-For", "192.0.2.1"); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	r.waitForWaiters(t, 4)
	leave() // that gives the slots back, too
	all.Wait()
	r.waitForWaiters(t, 0)
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	r := runWithin(t, l, web.Limits{Streams: web.Bound{All: 5, Client: 2}})
	refused := func(client string, status int) {
		t.Helper()
		resp := r.stream(t, "/feeds/things", "X-Forwarded-For", client)
		if resp.StatusCode != status || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Content-Type") != feed.TypeProblem {
			t.Errorf("%d %v, want %d", resp.StatusCode, resp.Header, status)
		}
	}
	var open []*http.Response
	for _, client := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"} {
		open = append(open, r.stream(t, "/feeds/things", "X-Forwarded-For", client))
	}
	refused("192.0.2.1", 429)
	refused("192.0.2.3", 503)
	commit(t, l)
	for _, resp := range open {
		next(t, bufio.NewReader(resp.Body), 1)
	}
	_ = open[0].Body.Close()
	waitFor(t, "the stream's end", func() bool { return testutil.ToFloat64(r.metrics.streams) == 4 })
	if resp := r.stream(t, "/feeds/things", "X-Forwarded-For", "192.0.2.4"); resp.StatusCode != 200 {
		t.Error("a stream has ended, and another one is refused:", resp.Status)
	}
}

func TestStopReleasesWhoWaits(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	r := run(t, l)
	commit(t, l)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			resp, err := r.ask(t.Context(), "/feeds/things?after="+head(t, l).Cursor().String(), "Prefer", "wait=30")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), `"up_to_date":true`) {
				t.Errorf("%d %v %s", resp.StatusCode, err, body)
			}
		})
		all.Go(func() {
			if _, err := io.ReadAll(r.stream(t, "/feeds/things").Body); err != nil {
				t.Errorf("a stream is not ended, but broken off: %v", err)
			}
		})
	}
	r.waitForWaiters(t, 5)
	waitFor(t, "the streams", func() bool { return testutil.ToFloat64(r.metrics.streams) == 5 })
	r.stop()
	all.Wait()
	err := <-r.served
	if r.served <- err; err != nil {
		t.Error(err)
	}
}

// stream asks for events, with headers as ask takes them.
func (r *running) stream(t *testing.T, path string, header ...string) *http.Response {
	t.Helper()
	resp, err := r.ask(t.Context(), path, append(header, "Accept", feed.TypeEvents)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// An event is one of a stream.
type event struct {
	id, data string
}

// next reads events (HTML Living Standard, section 9.2.6), until there are n.
func next(t *testing.T, r *bufio.Reader, n int) (events []event) {
	t.Helper()
	for e := (event{}); len(events) < n; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d events: %v", len(events), err)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case name == "" && e.data != "":
			events, e = append(events, e), event{}
		case name == "id":
			e.id = value
		case name == "data":
			e.data += value
		}
	}
	return events
}

func TestEvents(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, away := fragile(t, pool)
	fill(t, l, 250)
	r := run(t, l)

	t.Run("the whole history, then what comes", func(t *testing.T) {
		resp := r.stream(t, "/feeds/things?after=0")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != feed.TypeEvents || resp.Header.Get("Cache-Control") != "no-store" || !strings.Contains(resp.Header.Get("Vary"), "Accept") {
			t.Fatalf("%d %v", resp.StatusCode, resp.Header)
		}
		body := bufio.NewReader(resp.Body)
		events := next(t, body, 250)
		commit(t, l)
		events = append(events, next(t, body, 1)...)
		for i, e := range events {
			var item struct {
				ID       string
				Datafeed struct{ Position int64 } `json:"_datafeed"`
			}
			if err := json.Unmarshal([]byte(e.data), &item); err != nil || item.Datafeed.Position != int64(i+1) || e.id != cursorAt(t, pool, int64(i+1)).String() {
				t.Fatalf("event %d is %+v (%v)", i+1, e, err)
			}
		}
	})
	t.Run("from the last event on", func(t *testing.T) {
		resp := r.stream(t, "/feeds/things?after=0", "Last-Event-ID", cursorAt(t, pool, 249).String())
		if events := next(t, bufio.NewReader(resp.Body), 2); events[0].id != cursorAt(t, pool, 250).String() {
			t.Errorf("it goes on with %s", events[0].id)
		}
	})
	t.Run("only what comes", func(t *testing.T) {
		body := bufio.NewReader(r.stream(t, "/feeds/things").Body)
		commit(t, l)
		if e := next(t, body, 1)[0]; e.id != head(t, l).Cursor().String() {
			t.Errorf("the first event is %s", e.id)
		}
	})
	t.Run("what it refuses", func(t *testing.T) {
		for _, c := range []struct {
			path, last string
			status     int
		}{
			{"/feeds/things?before=" + head(t, l).Cursor().String(), "", 400},
			{"/feeds/things", "soon", 400},
			{"/feeds/things?after=x", "", 400},
			{"/feeds/things?after=5-000000000000", "", 410},
			{"/feeds/things", "5-000000000000", 410},
			{"/feeds/others", "", 404},
		} {
			if resp := r.stream(t, c.path, "Last-Event-ID", c.last); resp.StatusCode != c.status || resp.Header.Get("Content-Type") != feed.TypeProblem {
				t.Errorf("%s %s: %d %v", c.path, c.last, resp.StatusCode, resp.Header)
			}
		}
	})
	t.Run("a suffix fixes the format", func(t *testing.T) {
		if resp := r.stream(t, "/feeds/things.json"); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != feed.TypeJSONFeed {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
	})
	t.Run("over an absence of the database", func(t *testing.T) {
		body := bufio.NewReader(r.stream(t, "/feeds/things").Body)
		waitFor(t, "the stream", func() bool { return testutil.ToFloat64(r.metrics.streams) > 0 })
		away.Store(true)
		exec(t, pool, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
		awaitStale(t, l)
		other := openLog(t, pool)
		commit(t, other)
		away.Store(false)
		if e := next(t, body, 1)[0]; e.id != head(t, other).Cursor().String() {
			t.Errorf("it goes on with %s", e.id)
		}
	})
	t.Run("until the history is another", func(t *testing.T) {
		body := r.stream(t, "/feeds/things").Body
		restore(t, pool, 100, 5)
		if rest, err := io.ReadAll(body); err != nil || strings.Contains(string(rest), "data:") {
			t.Errorf("%v %s", err, rest)
		}
	})
}
