package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feedclient"
)

func polled(t testing.TB, server string) (list []Poll) {
	t.Helper()
	resp, text := get(t, server+"/subscriptions/things/polls", "application/json")
	if resp.StatusCode != 200 || json.Unmarshal([]byte(text), &list) != nil || list == nil {
		t.Fatalf("%s: %s", resp.Status, text)
	}
	return list
}

// The last polls are shown with their outcome by each process, and after a restart.
func TestPolls(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	env := map[string]string{"DATABASE_URL": newDatabase(t), "POLL_THINGS": "@hourly"}
	server, stop := runs(t, s, env)
	eventually(t, "it has a copy", func() bool { return status(t, server+"/readyz") == 200 })
	at := server + "/subscriptions/things"
	outcomes := func(list []Poll) string {
		var words []string
		for _, p := range list {
			words = append(words, fmt.Sprintf("%s %d/%d", p.Outcome, p.Entries, p.Requests))
		}
		return strings.Join(words, ", ")
	}
	want := func(about string, list []Poll, wanted string) {
		t.Helper()
		if got := outcomes(list); got != wanted {
			t.Errorf("%s: %s, not %s", about, got, wanted)
		}
	}
	want("at the start", polled(t, server), "entries 3/2") // a snapshot, and the page after it
	change(t, "POST", at+"/poll", 200, nil)
	change(t, "POST", at+"/poll", 200, nil)
	s.put(t, 4, 4)
	change(t, "POST", at+"/poll", 200, nil)
	s.setTamper(answered(503, `{"detail":"ada@example.com owes us."}`, "Content-Type", "application/problem+json"))
	refused(t, "POST", at+"/poll", nil, 502, "owes us")
	s.setTamper(nil)
	list := polled(t, server)
	const all = "failed 0/1, entries 1/1, not_modified 0/1, not_modified 0/1, entries 3/2"
	want("after some polls", list, all)
	if e := list[0].Error; e == nil || *e != "The source answered 503 Service Unavailable." || list[1].Error != nil {
		t.Errorf("the failure is %v", e)
	}
	for _, p := range list {
		if since := time.Since(p.StartedAt); since < 0 || since > time.Minute || p.Seconds < 0 || p.Seconds > 20 || (p.Bytes > 0) != (p.Outcome == PollEntries) {
			t.Errorf("%+v", p)
		}
	}
	for path, parts := range map[string][]string{
		"":       {`<section id="polls"`, "304, nothing new", "3 entries", "The source answered 503 Service Unavailable.", "5 since "},
		"/polls": {`<section id="polls"`},
	} {
		_, text := get(t, at+path, browser)
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%s: without %s: %s", path, part, text)
			}
		}
	}
	if _, text := get(t, server+"/subscriptions", browser); !strings.Contains(text, `<a href="/subscriptions/things#polls">`) || strings.Contains(text, "304, nothing new") {
		t.Errorf("the list of feeds: %s", text)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	server, stop = runs(t, s, env)
	eventually(t, "it has polled", func() bool { return len(polled(t, server)) > 5 })
	want("after a restart", polled(t, server), "entries 0/1, "+all)
	standby, _ := runs(t, s, env)
	eventually(t, "it stands by", func() bool { return subscription(t, standby).Standby })
	want("at a standby", polled(t, standby), "entries 0/1, "+all)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has taken over", func() bool {
		return strings.HasSuffix(outcomes(polled(t, standby)), "entries 0/1, "+all) && !subscription(t, standby).Standby
	})
}

// The history is bounded in memory and in the database, in the order of the polls, whatever the clock does.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	c := newCopier(t, newSource(t))
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	rows := func() (n int) {
		t.Helper()
		if err := c.pool.QueryRow(t.Context(), `select count(*) from poll`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range 3*PollsKept + 7 {
		at := now.Add(-time.Duration(i) * time.Minute) // the clock runs backwards
		c.history.note(at, at.Add(time.Second), received{requests: 1, pages: 1, entries: i}, nil)
		if i%40 == 0 || i == PollsKept/2 {
			c.history.save(t.Context(), at, true)
		}
		if n := rows(); n > PollsKept {
			t.Fatalf("%d rows after %d polls", n, i)
		}
	}
	c.history.save(t.Context(), now, true)
	other := &history{target: c.target}
	other.load(t.Context())
	for name, list := range map[string][]Poll{"in memory": c.history.list(), "in the database": other.list()} {
		if len(list) != PollsKept || rows() != PollsKept {
			t.Fatalf("%s: %d polls, %d rows", name, len(list), rows())
		}
		for i, p := range list {
			if p.Entries != 3*PollsKept+6-i {
				t.Fatalf("%s: %d: %+v", name, i, p)
			}
		}
	}
}

// Polls are stored together, and those that could not be stored are stored with the next ones.
func TestHistoryIsSavedNowAndThen(t *testing.T) {
	t.Parallel()
	c := newCopier(t, newSource(t))
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	save := func(after time.Duration, wanted int) {
		t.Helper()
		c.history.note(now.Add(after), now.Add(after), received{requests: 1}, nil)
		c.history.save(t.Context(), now.Add(after), false)
		if list, err := c.history.stored(t.Context()); len(list) != wanted {
			t.Errorf("after %v %d are stored, not %d: %v", after, len(list), wanted, err)
		}
	}
	save(0, 1)
	save(saveEvery/2, 1)
	save(saveEvery, 3)
	exec(t, c.pool, `alter table poll rename to away`)
	c.history.note(now, now, received{}, nil)
	c.history.save(t.Context(), now.Add(2*saveEvery), false)
	exec(t, c.pool, `alter table away rename to poll`)
	save(3*saveEvery, 5)
	c.history.note(now, now, received{}, errInterrupted)
	c.history.note(now, now, received{}, context.Canceled)
	c.history.note(now, now, received{}, fmt.Errorf("%w: %w", errCut, &feedclient.NoAnswerError{}))
	if list := c.history.list(); len(list) != 6 || list[0].Outcome != PollCut || list[0].Error != nil {
		t.Errorf("%+v", list)
	}
}

func TestMeasure(t *testing.T) {
	if m := Measure(nil); m.Polls != 0 || m.Since != nil || m.EntriesPerDay != nil {
		t.Errorf("%+v", m)
	}
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	words := "x"
	m := Measure([]Poll{
		{StartedAt: at.Add(2 * time.Hour), Outcome: PollNotModified, Bytes: 0},
		{StartedAt: at.Add(time.Hour), Outcome: PollFailed, Error: &words},
		{StartedAt: at.Add(time.Minute), Outcome: PollEntries, Entries: 10, Bytes: 1000},
		{StartedAt: at, Outcome: PollEntries, Entries: 990, Bytes: 9000}, // how long the source took to make them is not known
	})
	if m.Polls != 4 || !m.Since.Equal(at) || m.NotModified != 1 || m.Failed != 1 || m.EntriesPerPoll != 250 || m.BytesPerPoll != 2500 || *m.EntriesPerDay != 120 {
		t.Errorf("%+v", m)
	}
}

// A plan counts what entries cost: a further page, and the end of each wait.
func TestPlan(t *testing.T) {
	for _, c := range []struct {
		schedule         string
		wait             time.Duration
		held             bool
		entries          float64
		polls, requests  float64
		average, without float64
	}{
		{"@every 1m", 0, true, 100, 1440, 1440, 30, 30},
		{"@hourly", 0, true, 240_000, 24, 240, 1800, 1800},
		{"@every 1m", 20 * time.Second, true, 0, 4320, 4320, 0.001, 30},
		{"@every 1m", 20 * time.Second, true, 4320, 4320 / (1 - 1/math.E), 4320 / (1 - 1/math.E), 0.001, 30},
		{"@every 1m", 20 * time.Second, true, 1e6, 1e6, 1e6, 0.001, 30},
		{"@every 1m", 20 * time.Second, false, 4320, 1440, 1440, 30, 30},
	} {
		set := tuning{schedule: parse(t, c.schedule, "a/b"), wait: c.wait, pageSize: 1000}
		p := set.plan(c.held, Measured{EntriesPerDay: &c.entries}, time.Now())
		if math.Abs(*p.PollsPerDay-c.polls) > 0.001*c.polls || math.Abs(*p.RequestsPerDay-c.requests) > 0.001*c.requests ||
			p.Cost.Expected != c.average || p.WithoutWait.Expected != c.without || !p.WithWait.Held() || len(p.NextPolls) != 5 {
			t.Errorf("%+v: %v, %v, %+v", c, *p.PollsPerDay, *p.RequestsPerDay, p)
		}
	}
	if p := (tuning{schedule: parse(t, "@hourly", "a/b"), pageSize: 1}).plan(true, Measured{}, time.Now()); p.PollsPerDay != nil || p.WithWait.RequestsPerDay != 3456 {
		t.Errorf("%+v", p)
	}
}

// What settings would cost and bring is shown before they are set, as JSON and by forms.
func TestPreview(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	server, _ := runs(t, s, map[string]string{"DATABASE_URL": newDatabase(t), "POLL_THINGS": "@hourly"})
	at := server + "/subscriptions/things/schedule"
	eventually(t, "it has a copy", func() bool { return status(t, server+"/readyz") == 200 })
	preview := func(query url.Values) (p struct {
		Preview
		Warnings []string `json:"warnings"`
	}) {
		t.Helper()
		resp, text := ask(t, "GET", at+"?"+query.Encode(), nil)
		if resp.StatusCode != 200 || json.Unmarshal([]byte(text), &p) != nil || p.Feed != "things" || p.Warnings == nil {
			t.Fatalf("%s: %s", resp.Status, text)
		}
		return p
	}
	p := preview(url.Values{"schedule": {" * 8 * * * "}, "wait": {""}, "page_size": {"10"}})
	if p.Current.Schedule != "@hourly" || p.Current.Cost != (Cost{24, 1800, 3600}) || p.Proposed.Schedule != "* 8 * * *" || p.Proposed.PageSize != 10 || p.Current.PageSize != 1000 ||
		p.Proposed.ScheduleSource != "runtime" || p.Proposed.Cost.RequestsPerDay != 60 || p.Proposed.Cost.Worst != 23*3600+60 || p.Measured.Polls != 1 || len(p.Proposed.NextPolls) != 5 {
		t.Errorf("%+v", p)
	}
	if got := fmt.Sprint(p.Warnings); !strings.Contains(got, "uneven") || !strings.Contains(got, "every minute of the hours 8") {
		t.Error(got)
	}
	if p := preview(url.Values{"schedule": {"@hourly"}, "wait": {"25s"}}); p.Proposed.Cost != (Cost{3456, 0.001, 1}) || p.Proposed.WithoutWait != p.Current.Cost || len(p.Warnings) != 0 {
		t.Errorf("%+v", p)
	}
	if p := preview(url.Values{"reset": {"true"}, "schedule": {"nonsense"}}); p.Proposed.Schedule != "@hourly" || fmt.Sprint(p.Warnings) != "[These settings are in force already.]" {
		t.Errorf("%+v", p)
	}
	refused(t, "GET", at+"?schedule=often&wait=1h&page_size=many", nil, 422, `"field":"schedule"`, `"field":"wait"`, `"field":"page_size"`)
	refused(t, "GET", at+"?wait=5s", nil, 422, `"field":"schedule"`)

	page := func(query url.Values, code int, parts ...string) {
		t.Helper()
		resp, text := get(t, at+"?"+query.Encode(), browser)
		if resp.StatusCode != code {
			t.Errorf("%v: %s", query, resp.Status)
		}
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%v: without %s: %s", query, part, text)
			}
		}
	}
	page(nil, 200, `<form method="get" action="/subscriptions/things/schedule">`, "<button>Preview</button>")
	page(url.Values{"schedule": {"@every 7s"}, "wait": {"25s"}, "page_size": {""}}, 200, "<title>Preview: Tune things", "nothing is set yet",
		`<td data-label="Now"><code>@hourly</code></td><td data-label="Proposed"><strong><code>@every 7s</code></strong></td>`, "milliseconds, 1 s at most", "24 a day", "3,456 a day",
		`<input type="hidden" name="schedule" value="@every 7s"><input type="hidden" name="wait" value="25s"><input type="hidden" name="page_size" value="">`, "1 since ")
	page(url.Values{"reset": {"true"}}, 200, `<input type="hidden" name="reset" value="true">`, "in force already")
	page(url.Values{"schedule": {"often"}, "wait": {"1h"}}, 422, `name="schedule" value="often"`, `name="wait" value="1h"`, `id="schedule-wrong"`, `id="wait-wrong"`, "<title>Error: Tune things")
	if got := subscription(t, server); got.Schedule != "@hourly" || got.ScheduleSource != "environment" || got.Wait != "0s" {
		t.Errorf("a preview has changed %+v", got)
	}
}

func TestInWords(t *testing.T) {
	secret := errors.New("ada@example.com")
	for _, err := range []error{secret, &pageError{what: "apply", err: &applyError{secret}}, &feedclient.StatusError{Status: 500, Detail: "ada@example.com"}} {
		if got := InWords(err); strings.Contains(got, "ada") || !strings.HasSuffix(got, ".") {
			t.Errorf("%v: %s", err, got)
		}
	}
}
