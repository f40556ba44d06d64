package topology

import (
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// The map shows no user and password by which it asks a service.
func TestServicesAreShownWithoutSecrets(t *testing.T) {
	t.Parallel()
	var services directory.Services
	if err := services.UnmarshalText([]byte("sales=http://map:hunter2@127.0.0.1:1,assembly=http://hunter2@127.0.0.1:1/x")); err != nil {
		t.Fatal(err)
	}
	linked := slices.Clone(services)
	if err := linked.LinkTo("localhost"); err != nil {
		t.Fatal(err)
	}
	for _, services := range []directory.Services{services, linked} {
		w := NewWatch(services, "")
		engine := webserver.New(slog.New(slog.DiscardHandler))
		Route(engine, w)
		for _, path := range []string{"/", "/api/services"} {
			resp := httptest.NewRecorder()
			engine.ServeHTTP(resp, httptest.NewRequest("GET", path, nil))
			if text := resp.Body.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, ":1/x") {
				t.Errorf("%s: %s", path, text)
			}
		}
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	states := connect([]State{
		{Name: "warehouse", Reads: []Copy{
			{Feed: "orders", URL: "http://sales:8080/feeds/orders"},
			{Feed: "builds", URL: "https://cars.example/feeds/builds"},
			{Feed: "prices", URL: "https://prices.example/x/feeds/prices"},
			{Feed: "rates", URL: "https://warehouse:xxxxx@prices.example/x/feeds/rates"},
			{Feed: "returns", URL: "http://warehouse:xxxxx@sales:8080/feeds/returns"},
		}},
		{Name: "sales", URL: "http://localhost:8080", askedAt: "http://sales:8080"}, // which does not answer
		{Name: "assembly", askedAt: "http://assembly:8091", Publishes: []Feed{{Name: "builds", URL: "https://cars.example/feeds/builds"}}},
	})
	var sources []string
	for _, c := range states[0].Reads {
		sources = append(sources, c.Source)
	}
	if got := strings.Join(sources, " "); got != "sales assembly prices.example prices.example sales" || len(states) != 4 {
		t.Errorf("the sources are %s of %+v", got, states)
	}
	if f := states[1].Publishes; len(f) != 2 || f[0] != (Feed{"orders", "http://localhost:8080/feeds/orders", -1}) {
		t.Errorf("sales publishes %+v", f)
	}
	if len(states[2].Publishes) != 1 || len(states[3].Publishes) != 2 || states[3].Status != Unknown {
		t.Errorf("%+v", states[2:])
	}
}

// A copy whose polls fail does not look healthy, whatever its state.
func TestFailingCopy(t *testing.T) {
	t.Parallel()
	w := NewWatch([]directory.Service{{Name: "warehouse", URL: "http://localhost:8090"}}, "")
	since := time.Now().UTC().Add(-7 * time.Minute)
	w.states[0].Status, w.states[0].Reads = Up, []Copy{{Feed: "orders", URL: "http://sales:8080/feeds/orders", State: "fresh", AsOf: &since, Failing: &since}}
	engine := webserver.New(slog.New(slog.DiscardHandler))
	Route(engine, w)
	get := func(path string) string {
		resp := httptest.NewRecorder()
		engine.ServeHTTP(resp, httptest.NewRequest("GET", path, nil))
		return resp.Body.String()
	}
	body := get("/")
	for _, part := range []string{`<path class="arrow stale"`, `class="row copy stale"`, "fresh, 0 behind, 7 min ago", `text-anchor="end">failing<title>polls fail since ` + since.Format("15:04:05"), `<br>polls fail since ` + since.Format("15:04:05") + " UTC"} {
		if !strings.Contains(body, part) {
			t.Errorf("the page lacks %s:\n%s", part, body)
		}
	}
	if api := get("/api/services"); !strings.Contains(api, `"failing_since":"`) {
		t.Errorf("as JSON: %s", api)
	}
	w.states[0].Status = Down
	if body := get("/"); strings.Contains(body, "fail since") {
		t.Errorf("of a service that is down:\n%s", body)
	}
}

// Whatever the services are like, the page says so, and nothing of them can break it.
func TestPage(t *testing.T) {
	t.Parallel()
	w := NewWatch([]directory.Service{{Name: "sales", URL: "http://sales:8080", Link: "http://localhost:8080", Text: "sells <cars>"}, {Name: "warehouse", URL: "http://localhost:8090"}}, "")
	noon, trouble := time.Now().UTC().Add(-7*time.Minute), "ask: <refused>"
	w.states[0].Status, w.states[0].Detail, w.states[0].Since = Down, "It cannot be reached.", noon
	w.states[1].Status, w.states[1].Reads = Up, []Copy{{Feed: "orders", URL: "http://sales:8080/feeds/orders", State: "stale", AsOf: &noon, Schedule: "@every 5s", LastError: &trouble, NextPolls: []time.Time{noon}}}
	engine := webserver.New(slog.New(slog.DiscardHandler))
	Route(engine, w)
	get := func(path string) *httptest.ResponseRecorder {
		resp := httptest.NewRecorder()
		engine.ServeHTTP(resp, httptest.NewRequest("GET", path, nil))
		return resp
	}
	resp := get("/")
	body := resp.Body.String()
	for _, part := range []string{
		`<p class="banner bad" role="status"><strong>sales: down.</strong> The other services are not affected.</p>`,
		`<a href="http://localhost:8080"><text class="name" x="16" y="30">sales</text></a>`, "down since " + noon.Format("15:04:05"), "It cannot be reached.",
		`<a href="http://localhost:8080/feeds/orders">`, `publishes <tspan class="feed">orders</tspan>`, "sells &lt;cars&gt;",
		`<a href="http://localhost:8090/subscriptions/orders">`, `reads <tspan class="feed">orders</tspan>`, "stale, 0 behind, 7 min ago", `it has missed polls<br><code>ask: &lt;refused&gt;</code>`, `<path class="arrow stale"`,
		`<code>@every 5s</code>`, "orders at warehouse", `<noscript>This page updates every two seconds. <a href="/?refresh=off">Turn updates off</a></noscript>`,
	} {
		if !strings.Contains(body, part) {
			t.Errorf("the page lacks %s:\n%s", part, body)
		}
	}
	if !strings.Contains(body, `http-equiv="refresh" content="2"`) || !strings.Contains(body, `data-seconds="2"`) || strings.Contains(body, " style=") {
		t.Error(body)
	}
	if still := get("/?refresh=off"); strings.Contains(still.Body.String(), `http-equiv="refresh"`) || !strings.Contains(still.Body.String(), `<a href="/">Turn them on</a>`) {
		t.Errorf("it does not stand still: %s", still.Body)
	}
	if css := get("/map.css"); css.Code != 200 || !strings.HasPrefix(css.Header().Get("Content-Type"), "text/css") {
		t.Errorf("its style: %d %v", css.Code, css.Header())
	}
	if api := get("/api/services"); !strings.Contains(api.Body.String(), `"source":"sales","state":"stale"`) {
		t.Errorf("as JSON: %s", api.Body)
	}
	// What a service that is down says no longer is not repeated.
	w.states[1].Status = Down
	if body := get("/").Body.String(); !strings.Contains(body, `<path class="arrow unknown"`) || strings.Contains(body, "stale, ") {
		t.Errorf("of a service that is down:\n%s", body)
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 ms", 720 * time.Millisecond: "720 ms", time.Second: "1.0 s", 59990 * time.Millisecond: "59.9 s", time.Minute: "1 min 0 s", 70 * time.Second: "1 min 10 s",
		time.Hour: "1 h 0 min", 26*time.Hour + 3*time.Minute: "26 h 3 min",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestTroubleFirst(t *testing.T) {
	t.Parallel()
	at, reason := time.Now().UTC().Add(-time.Minute), "connection refused"
	of := func(c Copy) State {
		c.Feed = "orders"
		return State{Name: c.Feed + " " + c.State, Status: Up, Reads: []Copy{c}}
	}
	states := []State{
		{Name: "elsewhere", Status: Unknown},
		of(Copy{State: "fresh", AsOf: &at}), of(Copy{State: "paused"}), of(Copy{State: "fresh", Behind: 12}),
		of(Copy{State: "fresh", Rejected: 1}), of(Copy{State: "fresh", Failing: &at, LastError: &reason, Rejected: 2}), {Name: "closed", Status: Up, refuses: true},
		of(Copy{State: "diverged"}), {Name: "dead", Status: Down, Reads: []Copy{{Feed: "orders", State: Unknown}}},
	}
	want := []struct{ name, why string }{
		{"orders diverged", "the source has another history than the copy"}, {"dead", ""},
		{"orders fresh", "1 entry rejected, retry or drop them on its page"},
		{"orders fresh", "polls fail since " + at.Format("15:04:05") + " UTC; 2 entries rejected, retry or drop them on its page"}, {"closed", ""},
		{"orders paused", "polls are paused; resume them on its page"}, {"orders fresh", "it is catching up"},
		{"orders fresh", ""}, {"elsewhere", ""},
	}
	for i, s := range troubleFirst(states) {
		why := ""
		for _, c := range s.Reads {
			why += c.Why()
		}
		if s.Name != want[i].name || why != want[i].why {
			t.Errorf("%d: %s, %q, want %+v", i, s.Name, why, want[i])
		}
	}
	copies := view{States: troubleFirst(states)}.Copies()
	if first, last := copies[0].Copy.State, copies[len(copies)-1].Copy.State; len(copies) != 7 || first != "diverged" || last != Unknown {
		t.Errorf("of %d copies the first is %s and the last %s", len(copies), first, last)
	}
	if words := (Copy{State: "stale", AsOf: &at, Behind: 12_345}).Words(); words != "stale, 12,345 behind, 1 min ago" {
		t.Error(words)
	}
}
