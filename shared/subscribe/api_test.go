package subscribe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

const browser = "text/html,application/xhtml+xml,*/*;q=0.8"

// ask sends a request as a program does, or with a form a browser, and follows no redirect.
func ask(t testing.TB, method, address string, body any) (*http.Response, string) {
	t.Helper()
	accept, contentType, text := "*/*", "", ""
	switch body := body.(type) {
	case string:
		contentType, text = "application/json", body
	case url.Values:
		accept, contentType, text = browser, "application/x-www-form-urlencoded", body.Encode()
	}
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(answer)
}

// change asks, and wants a subscription back.
func change(t testing.TB, method, address string, status int, body any) (s Status) {
	t.Helper()
	resp, text := ask(t, method, address, body)
	if resp.StatusCode != status || json.Unmarshal([]byte(text), &s) != nil || s.Feed == "" {
		t.Fatalf("%s %s: %s: %s", method, address, resp.Status, text)
	}
	return s
}

func subscription(t testing.TB, server string) Status {
	t.Helper()
	return change(t, "GET", server+"/subscriptions/things", 200, nil)
}

// refused asks, and wants a problem of that status that says all the parts.
func refused(t testing.TB, method, address string, body any, status int, parts ...string) {
	t.Helper()
	resp, text := ask(t, method, address, body)
	if resp.StatusCode != status {
		t.Errorf("%s %s %v: %s: %s", method, address, body, resp.Status, text)
	}
	if _, form := body.(url.Values); !form && resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s %s: the refusal is %s: %s", method, address, resp.Header.Get("Content-Type"), text)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s %s %v: without %q: %s", method, address, body, part, text)
		}
	}
}

// runs is a service in a process of its own, with a database that others may share.
func runs(t testing.TB, s *source, env map[string]string) (address string, stop func() error) {
	t.Helper()
	all := map[string]string{"FEED_URL_THINGS": s.feedURL()}
	maps.Copy(all, env)
	address, stop, _ = start(t, all)
	return address, stop
}

func newDatabase(t testing.TB) string {
	t.Helper()
	return pgtest.URL(pgtest.New(t, sql.Migrations("subscribe")))
}

func TestTuning(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	s := newSource(t)
	s.put(t, 1, 3)
	env := map[string]string{"DATABASE_URL": newDatabase(t), "POLL_THINGS": "@hourly", "POLL_WAIT": "0s", "PAGE_SIZE": "500"}
	server, stop := runs(t, s, env)
	eventually(t, "it has a copy", func() bool { return status(t, server+"/readyz") == 200 })
	at := server + "/subscriptions/things/schedule"
	want := func(about string, got Status, schedule, source, wait string, pageSize int) {
		t.Helper()
		if got.Schedule != schedule || got.ScheduleSource != source || got.Wait != wait || got.PageSize != pageSize || len(got.NextPolls) != 5 {
			t.Errorf("%s: %+v", about, got)
		}
	}
	want("as configured", subscription(t, server), "@hourly", "environment", "0s", 500)

	got := change(t, "PUT", at, 200, `{"schedule": " @every 10s "}`)
	want("set", got, "@every 10s", "runtime", "0s", 500)
	for i, next := range got.NextPolls[1:] {
		if next.Sub(got.NextPolls[i]) != 10*time.Second {
			t.Errorf("next polls %v", got.NextPolls)
		}
	}
	if got.Cost != (Cost{8640, 5, 10}) {
		t.Errorf("it costs %+v", got.Cost)
	}
	got = change(t, "PUT", at, 200, `{"schedule": "0 9 * * *", "wait": "30s", "page_size": 20}`)
	want("with all fields", got, "0 9 * * *", "runtime", "30s", 20)
	if got.Cost != (Cost{2880, 0.001, 1}) {
		t.Errorf("waiting costs %+v", got.Cost)
	}
	s.exchanges()
	s.put(t, 4, 4)
	eventually(t, "waiting begins at once, and what is new is there", func() bool { return strings.TrimSpace(second(get(t, server+"/api/things", "*/*"))) == "4" })
	if asked := s.exchanges(); len(asked) == 0 || !strings.Contains(asked[0].query, "limit=20") {
		t.Errorf("asked %v", asked)
	}

	for body, parts := range map[string][]string{
		`{"schedule": "often"}`: {`"field":"schedule"`, `\"often\" is not a schedule`, "expected 5 to 6 fields"},
		`{"schedule": "@every 5s", "wait": "31s", "page_size": 0}`: {`"field":"wait"`, `"field":"page_size"`},
		`{"schedule": "@every 5s", "wait": "1500ms"}`:              {`"field":"wait"`},
		`{"schedule": "@every 5s", "wait": "-1s"}`:                 {`"field":"wait"`},
		`{"schedule": "@every 5s", "wait": "soon"}`:                {`"field":"wait"`},
		`{"schedule": "@every 5s", "wait": 25}`:                    {`"field":"wait"`, "whole seconds from"},
		`{"schedule": "@every 5s", "page_size": 1001}`:             {`"field":"page_size"`, "from 1 to 1000"},
		`{"schedule": "@every 5s", "page_size": "10"}`:             {`"field":"page_size"`},
		`{"schedule": "@every 5s", "page_size": 1.5}`:              {`"field":"page_size"`},
		`{"wait": "5s"}`:     {`"field":"schedule"`},
		`{"schedule": null}`: {`"field":"schedule"`},
		`{"schedule": "` + strings.Repeat("0,", 100) + `0 * * * *"}`: {`"field":"schedule"`, "200 characters"},
		`{"schedule": "@every 5s", "pages": 5}`:                      {"The body is not like"},
		`{"schedule": "@every 5s", "schedule": "@hourly"}`:           {"The body is not like", "twice"},
		`"@every 5s"`: {"The body is not like"},
	} {
		refused(t, "PUT", at, body, 422, parts...)
	}
	for _, body := range []string{`{"schedule": "@every 5s"} {}`, `{"schedule": "@every 5s"`, ``, `often`} {
		refused(t, "PUT", at, body, 400, "The body is not JSON")
	}
	refused(t, "PUT", at, nil, 415, "application/json")
	refused(t, "POST", at, `{"schedule": "@every 5s"}`, 415, "application/x-www-form-urlencoded")
	want("after what was refused", subscription(t, server), "0 9 * * *", "runtime", "30s", 20)

	if err := stop(); err != nil {
		t.Fatal(err)
	}
	server, stop = runs(t, s, env)
	at = server + "/subscriptions/things/schedule"
	want("after a restart", subscription(t, server), "0 9 * * *", "runtime", "30s", 20)
	want("after the DELETE", change(t, "DELETE", at, 200, nil), "@hourly", "environment", "0s", 500)
	want("once more", change(t, "DELETE", at, 200, nil), "@hourly", "environment", "0s", 500)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	server, _ = runs(t, s, env)
	want("after another restart", change(t, "GET", server+"/subscriptions/things/schedule", 200, nil), "@hourly", "environment", "0s", 500)
}

func second[A, B any](_ A, b B) B { return b }

func TestPauseAndPollNow(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many polls")
	s := newSource(t)
	s.put(t, 1, 3)
	server, _ := runs(t, s, map[string]string{"DATABASE_URL": newDatabase(t), "POLL_THINGS": "@every 1s", "POLL_WAIT": "25s"})
	at := server + "/subscriptions/things"
	eventually(t, "it has a copy", func() bool { return status(t, server+"/readyz") == 200 })

	if got := change(t, "POST", at+"/pause", 200, nil); got.State != Paused || len(got.NextPolls) != 0 {
		t.Errorf("paused: %+v", got)
	}
	before := subscription(t, server)
	s.put(t, 4, 4)
	if got := change(t, "POST", at+"/poll", 200, nil); got.State != Paused || got.Cursor != s.head(t).Cursor() || !got.LastSuccessAt.After(*before.LastSuccessAt) {
		t.Errorf("polled while paused: %+v", got)
	}
	s.exchanges()
	s.put(t, 5, 5)
	looks := time.Tick(50 * time.Millisecond)
	for range 50 { // in which two polls would have been due
		<-looks
		if got := subscription(t, server); got.State != Paused || got.Cursor == s.head(t).Cursor() {
			t.Fatalf("while paused: %+v", got)
		}
	}
	if asked := s.exchanges(); len(asked) > 0 {
		t.Errorf("while paused it asked %v", asked)
	}
	if status(t, server+"/readyz") != 200 {
		t.Error("paused, the copy does not serve")
	}
	if got := change(t, "POST", at+"/resume", 200, nil); got.State == Paused || len(got.NextPolls) != 5 {
		t.Errorf("resumed: %+v", got)
	}
	eventually(t, "it polls again", func() bool { return subscription(t, server).Cursor == s.head(t).Cursor() })

	change(t, "PUT", at+"/schedule", 200, `{"schedule": "@hourly", "wait": "0s"}`)
	s.putNameless(t, 6)
	if got := change(t, "POST", at+"/poll", 200, nil); got.RejectedEntries != 1 {
		t.Errorf("the answer does not say what was rejected: %+v", got)
	}
	s.setTamper(answered(503, `{"detail":"Closed for today."}`, "Content-Type", "application/problem+json"))
	refused(t, "POST", at+"/poll", nil, 502, "The poll failed: the source answered 503 Service Unavailable: Closed for today.\"")
	s.setTamper(answered(200, "<p>Maintenance", "Content-Type", "text/html"))
	refused(t, "POST", at+"/poll", nil, 502, "not a page of this feed")
	for says, fault := range map[string]tamper{
		"it redirects to another origin, elsewhere.example": answered(302, "", "Location", "https://elsewhere.example/feeds/things"),
		"it redirects more than 5 times":                    answered(308, "", "Location", "/feeds/things"),
		"the source answered 301 Moved Permanently":         answered(301, ""),
		"malformed HTTP":                           garbled,
		"connection reset":                         resetAfter(0),
		"the source answered 300 Multiple Choices": answered(300, ""),
	} {
		s.setTamper(fault)
		refused(t, "POST", at+"/poll", nil, 502, "The poll failed: ", says)
	}
	s.setTamper(nil)
	if got := change(t, "POST", at+"/poll", 200, nil); got.LastError != nil || got.Cursor != s.head(t).Cursor() {
		t.Errorf("polled: %+v", got)
	}
	s.Close()
	refused(t, "POST", at+"/poll", nil, 502, "The poll failed: ask "+s.feedURL(), "connection refused")

	for _, path := range []string{"", "/schedule", "/poll", "/pause", "/resume", "/resync", "/rejected", "/rejected/retry", "/rejected/" + numbered(1).String() + "/drop"} {
		method := map[string]string{"": "GET", "/schedule": "PUT", "/rejected": "GET"}[path]
		if method == "" {
			method = "POST"
		}
		refused(t, method, server+"/subscriptions/nothing"+path, nil, 404, "does not subscribe to a feed of this name")
		resp, _ := ask(t, "PATCH", at+path, nil)
		if resp.StatusCode != 405 || !strings.Contains(resp.Header.Get("Allow"), method) {
			t.Errorf("PATCH %s: %s, Allow %s", path, resp.Status, resp.Header.Get("Allow"))
		}
	}
}

// Pausing breaks off a poll that copies much, between two pages.
func TestPauseInTheMiddle(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 95)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	paused := make(chan Status, 1)
	pages := 0
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if pages++; pages == 5 { // those before the third are applied
			paused <- change(t, "POST", server.URL+"/subscriptions/things/pause", 200, nil)
		}
		honest.ServeHTTP(w, r)
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run(ctx)
	}()
	defer func() {
		stop()
		<-ended
	}()
	if got := <-paused; got.State != Paused {
		t.Errorf("paused: %+v", got)
	}
	eventually(t, "the poll breaks off", func() bool {
		got := c.status(time.Now())
		return got.CatchingUp == nil && got.Cursor.Position > 0
	})
	if got := subscription(t, server.URL); got.Cursor.Position >= 95 || got.State != Paused || got.LastError != nil {
		t.Errorf("broken off: %+v", got)
	}
	s.setTamper(nil)
	change(t, "POST", server.URL+"/subscriptions/things/resume", 200, nil)
	eventually(t, "it goes on", func() bool { return subscription(t, server.URL).Cursor == s.head(t).Cursor() })
	c.wantUpToDate(t, s)
}

func TestReadAnewByHand(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	database := newDatabase(t)
	server, _ := runs(t, s, map[string]string{"DATABASE_URL": database, "POLL_THINGS": "@hourly"})
	eventually(t, "it has a copy", func() bool { return status(t, server+"/readyz") == 200 })
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `update thing set name = 'spoilt'; delete from thing where id = $1`, pgx.QueryExecModeSimpleProtocol, numbered(1)); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		<-hold
		honest.ServeHTTP(w, r)
	})
	at := server + "/subscriptions/things"
	first := change(t, "POST", at+"/resync", 202, nil)
	if first.State != Resyncing || first.ResyncReason != "Asked for by hand." || first.ResyncSince == nil || first.Generation != 1 {
		t.Errorf("asked for: %+v", first)
	}
	if again := change(t, "POST", at+"/resync", 202, nil); again.ResyncSince == nil || !again.ResyncSince.Equal(*first.ResyncSince) {
		t.Errorf("asked for twice: %+v", again)
	}
	if _, text := get(t, at, browser); !strings.Contains(text, `http-equiv="refresh" content="2"`) || !strings.Contains(text, "Asked for by hand.") {
		t.Errorf("the page: %s", text)
	}
	close(hold)
	eventually(t, "it was read again", func() bool { return subscription(t, server).Generation == 2 })
	got := subscription(t, server)
	if got.State != Fresh || got.ResyncSince != nil || got.ResyncedAt == nil || got.ResyncReason != "Asked for by hand." || got.Cursor != s.head(t).Cursor() {
		t.Errorf("read again: %+v", got)
	}
	var whole int
	if err := conn.QueryRow(t.Context(), `select count(*) from thing where name <> 'spoilt'`).Scan(&whole); err != nil || whole != 25 {
		t.Errorf("%d of 25 things are whole, %v", whole, err)
	}
	if _, text := get(t, at, browser); strings.Contains(text, `http-equiv="refresh"`) || !strings.Contains(text, "generation 2") {
		t.Errorf("the page: %s", text)
	}
}

func TestReplicasShareTheSettings(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	s := newSource(t)
	s.put(t, 1, 3)
	env := map[string]string{"DATABASE_URL": newDatabase(t), "POLL_THINGS": "@hourly"}
	polls, stop := runs(t, s, env)
	eventually(t, "the first polls", func() bool { return !subscription(t, polls).Standby && status(t, polls+"/readyz") == 200 })
	serves, _ := runs(t, s, env)
	eventually(t, "the second serves", func() bool { return status(t, serves+"/readyz") == 200 })

	refused(t, "POST", serves+"/subscriptions/things/poll", nil, 409, "Another process of this service polls")
	change(t, "POST", polls+"/subscriptions/things/poll", 200, nil)
	if got := change(t, "PUT", serves+"/subscriptions/things/schedule", 200, `{"schedule": "@every 1s"}`); got.Schedule != "@every 1s" || !got.Standby {
		t.Errorf("set at the second: %+v", got)
	}
	within(t, 30*time.Second, "the first polls as the second was told", func() bool { return subscription(t, polls).Schedule == "@every 1s" })
	s.put(t, 4, 4)
	eventually(t, "it does so", func() bool { return subscription(t, polls).Cursor == s.head(t).Cursor() })
	change(t, "POST", serves+"/subscriptions/things/pause", 200, nil)
	within(t, 30*time.Second, "it is paused", func() bool { return subscription(t, polls).State == Paused })
	change(t, "POST", polls+"/subscriptions/things/resume", 200, nil)
	within(t, 30*time.Second, "it is resumed", func() bool { return subscription(t, serves).State != Paused })
	change(t, "POST", serves+"/subscriptions/things/resync", 202, nil)
	eventually(t, "it is read again from its start", func() bool { return subscription(t, serves).Generation == 2 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "the second takes over, settings and all", func() bool {
		got := subscription(t, serves)
		return !got.Standby && got.Schedule == "@every 1s"
	})
	eventually(t, "and polls", func() bool {
		resp, _ := ask(t, "POST", serves+"/subscriptions/things/poll", nil)
		return resp.StatusCode == 200
	})
}

func within(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	began := time.Now()
	eventually(t, what, condition)
	if took := time.Since(began); took > limit {
		t.Errorf("%s: it took %v", what, took)
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	server, _ := runs(t, s, map[string]string{"DATABASE_URL": newDatabase(t), "POLL_THINGS": "@hourly"})
	at := server + "/subscriptions/things"
	eventually(t, "it has a copy", func() bool { return status(t, server+"/readyz") == 200 })
	// sends returns the page to which the form leads.
	sends := func(path string, form url.Values, notice string) string {
		t.Helper()
		resp, text := ask(t, "POST", at+path, form)
		if resp.StatusCode != 303 {
			t.Fatalf("%s: %s: %s", path, resp.Status, text)
		}
		page, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		shown, text := get(t, page.String(), browser)
		if shown.StatusCode != 200 || page.Path != "/subscriptions/things" || !strings.Contains(text, `<p class="banner done" role="status">`+notice) {
			t.Errorf("%s leads to %s: %s: %s", path, page, shown.Status, text)
		}
		return text
	}
	if text := sends("/schedule", url.Values{"schedule": {"@every 7s"}, "wait": {"25s"}, "page_size": {""}}, "Done: this is how"); !strings.Contains(text, "<code>@every 7s</code> (set at run time)") {
		t.Errorf("the page: %s", text)
	}
	if got := subscription(t, server); got.Schedule != "@every 7s" || got.Wait != "25s" || got.PageSize != 1000 {
		t.Errorf("set by the form: %+v", got)
	}
	// The address in FEED_URL_THINGS may be one that browsers do not reach.
	_, text := get(t, at, browser)
	for _, part := range []string{`<dt>Source</dt><dd><a href="http://source.example/feeds/things">`, `id="follow" data-seconds="3"`} {
		if !strings.Contains(text, part) {
			t.Errorf("the page is without %s: %s", part, text)
		}
	}
	_, text = get(t, at+"/schedule", browser)
	for _, part := range []string{`name="schedule" value="@every 7s"`, `name="wait" value="25s"`, `name="page_size" value=""`, "<code>@hourly</code>"} {
		if !strings.Contains(text, part) {
			t.Errorf("the form is without %s: %s", part, text)
		}
	}
	if strings.Contains(text, `http-equiv="refresh"`) || strings.Contains(text, "aria-invalid") {
		t.Errorf("the form: %s", text)
	}
	refused(t, "POST", at+"/schedule", url.Values{"schedule": {`<"often">`}, "wait": {"an hour"}, "page_size": {"many"}}, 422,
		`name="schedule" value="&lt;&#34;often&#34;&gt;"`, `name="wait" value="an hour"`, `name="page_size" value="many"`,
		`aria-describedby="schedule-takes schedule-wrong" aria-invalid="true"`, `id="schedule-wrong"`, `id="wait-wrong"`, `id="page_size-wrong"`,
		`role="alert"`, "<title>Error: Tune things", "is not a schedule")
	if got := subscription(t, server); got.Schedule != "@every 7s" || got.Wait != "25s" {
		t.Errorf("after what was refused: %+v", got)
	}
	sends("/schedule", url.Values{"reset": {"true"}, "schedule": {"nonsense"}}, "Done: the feed is polled as")
	if got := subscription(t, server); got.Schedule != "@hourly" || got.Wait != "0s" {
		t.Errorf("as configured: %+v", got)
	}
	sends("/poll", url.Values{}, "Polled")
	if text := sends("/pause", url.Values{}, "Paused"); !strings.Contains(text, "/subscriptions/things/resume") || strings.Contains(text, "/subscriptions/things/pause") {
		t.Errorf("paused: %s", text)
	}
	sends("/resume", url.Values{}, "Resumed")
	sends("/resync", url.Values{}, "The feed is read again")
	eventually(t, "it was read again", func() bool { return subscription(t, server).Generation == 2 })
	s.Close()
	refused(t, "POST", at+"/poll", url.Values{}, 502, `<p class="banner bad" role="alert">The poll failed: ask`, "The source cannot be reached.", "/subscriptions/things/poll")

	req, _ := http.NewRequestWithContext(t.Context(), "POST", at+"/pause", nil)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := subscription(t, server); resp.StatusCode != 403 || got.State == Paused {
		t.Errorf("a form of another site: %s, %+v", resp.Status, got)
	}
}

// The last transaction of a resync may be long. Meanwhile requests that pause, resume, tune or look do not wait, and
// what they set is in force afterwards.
func TestChangesDuringTheEndOfAResync(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many polls")
	const size = 20000
	s := newSource(t)
	for n := 0; n < size; n += 1000 {
		s.put(t, n+1, n+1000)
	}
	for n := 1; n <= 3; n++ {
		e := s.version(size + n)
		e.Payload = fmt.Appendf(nil, `{"id": %q, "version": 1, "name": null}`, e.ID)
		s.publish(t, e)
	}
	s.put(t, 1, 1) // a page of bad entries alone is not theirs
	var hold atomic.Bool
	held, release := make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(release) })
	defer letGo()
	holding := thingService()
	holding.Feeds[0].Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		if err := copyThings(ctx, tx, b); err != nil {
			return err
		}
		if hold.CompareAndSwap(true, false) {
			close(held)
			<-release
		}
		return nil
	}
	pool := pgtest.New(t)
	env := map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL(), "POLL_THINGS": "@every 1s"}
	polls, _, _ := startService(t, holding, env)
	eventually(t, "there is a copy", func() bool {
		got := subscription(t, polls)
		return got.State == Fresh && got.Cursor == s.head(t).Cursor() && got.RejectedEntries == 3
	})
	serves, _, _ := start(t, env)
	eventually(t, "a second one stands by", func() bool { return subscription(t, serves).Standby })

	hold.Store(true)
	at := polls + "/subscriptions/things"
	change(t, "POST", at+"/resync", 202, nil)
	<-held
	s.put(t, 1, 1)
	if got := change(t, "POST", at+"/pause", 200, nil); got.State != Paused {
		t.Errorf("paused, it is %+v", got)
	}
	if got := change(t, "POST", at+"/resume", 200, nil); got.State != Resyncing {
		t.Errorf("resumed, it is %+v", got)
	}
	wish := `{"schedule": "@every 2s", "wait": "0s", "page_size": 77}`
	if got := change(t, "PUT", at+"/schedule", 200, wish); got.Schedule != "@every 2s" {
		t.Errorf("tuned, it is %+v", got)
	}
	if got := subscription(t, polls); got.PageSize != 77 || got.State != Resyncing {
		t.Errorf("it is %+v", got)
	}
	if got := change(t, "POST", at+"/resync", 202, nil); got.Generation != 1 {
		t.Errorf("asked for a resync once more, it is %+v", got)
	}
	if got := listed(t, &httptest.Server{URL: polls}); len(got) != 3 {
		t.Errorf("%d entries are listed", len(got))
	}
	rejected := at + "/rejected/" + numbered(size+1).String()
	refused(t, "POST", rejected+"/retry", nil, 503, "resync")
	refused(t, "POST", at+"/rejected/retry", nil, 503, "resync")
	if resp, text := ask(t, "POST", rejected+"/drop", nil); resp.StatusCode != 204 {
		t.Errorf("drop: %s: %s", resp.Status, text)
	}
	if got := subscription(t, polls); got.RejectedEntries != 2 {
		t.Errorf("dropped one of three, it is %+v", got)
	}
	change(t, "PUT", serves+"/subscriptions/things/schedule", 200, `{"schedule": "@every 3s", "page_size": 78}`)
	eventually(t, "the one that polls looks, too", func() bool { return subscription(t, polls).Schedule == "@every 3s" })
	change(t, "POST", serves+"/subscriptions/things/pause", 200, nil)
	eventually(t, "it is paused", func() bool { return subscription(t, polls).State == Paused })
	if n := count(t, pool, `select generation from subscription`); n != 1 {
		t.Fatal("nothing was held")
	}

	letGo()
	eventually(t, "the resync has ended", func() bool { return subscription(t, polls).Generation == 2 })
	if got := subscription(t, polls); got.State != Paused || got.Schedule != "@every 3s" || got.PageSize != 78 ||
		got.RejectedEntries != 3 || got.Standby {
		t.Errorf("after the resync it is %+v", got)
	}
	s.exchanges()
	change(t, "POST", at+"/resume", 200, nil)
	eventually(t, "it copies on", func() bool { return subscription(t, polls).Cursor == s.head(t).Cursor() })
	for _, e := range s.exchanges() {
		if !strings.Contains(e.query, "limit=78") {
			t.Errorf("it asked for %s", e.query)
		}
	}
}
