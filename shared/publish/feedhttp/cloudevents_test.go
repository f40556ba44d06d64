package feedhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A cloudEvent is what a client of http-feeds.org reads.
type cloudEvent struct {
	SpecVersion, ID, Type, Source, Subject, Method, DataContentType string

	Time   time.Time
	Erased bool
	Data   json.RawMessage
}

// readEvents polls like a client of http-feeds.org: by the last id, until nothing is new.
func readEvents(t testing.TB, server *httptest.Server, path, last string, header ...string) (events []cloudEvent) {
	t.Helper()
	for {
		resp, body := get(t, server, "GET", path+"?lastEventId="+last, header...)
		var batch []cloudEvent
		if err := json.Unmarshal([]byte(body), &batch); err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != feed.TypeCloudEvents {
			t.Fatalf("after %s: %d %s, %v", last, resp.StatusCode, resp.Header.Get("Content-Type"), err)
		}
		if len(batch) == 0 {
			return events
		}
		events = append(events, batch...)
		last = batch[len(batch)-1].ID
	}
}

func TestCloudEvents(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	entries := lives(350)
	appendAll(t, l, entries)
	server := serve(t, l)
	events := readEvents(t, server, "/feeds/things.cloudevents", "null")
	if len(events) != len(entries) {
		t.Fatalf("%d events of %d entries", len(events), len(entries))
	}
	for i, e := range events {
		want := cloudEvent{
			SpecVersion: "1.0", ID: cursorAt(t, pool, int64(i+1)).String(), Type: "example.datafeed.things", Source: description.ID,
			Subject: entries[i].ID.String(), Time: entries[i].Updated, Data: entries[i].Payload, DataContentType: "application/json",
		}
		if want.Data == nil {
			want.Method, want.DataContentType = "DELETE", ""
		}
		if got, want := fmt.Sprintf("%+v", e), fmt.Sprintf("%+v", want); got != want {
			t.Fatalf("event %d is %s, want %s", i, got, want)
		}
	}
	if late := readEvents(t, server, "/feeds/things", events[299].ID, "Accept", feed.TypeCloudEvents); len(late) != 50 || late[0].ID != events[300].ID {
		t.Errorf("%d events follow the 300th", len(late))
	}

	t.Run("a page is found by each way to say from where", func(t *testing.T) {
		_, first := get(t, server, "GET", "/feeds/things.cloudevents?lastEventId=0&limit=100")
		for _, query := range []string{"", "?lastEventId=", "?lastEventId=null", "?timeout=30000", "?limit=100&history=" + events[9].ID} {
			resp, body := get(t, server, "GET", "/feeds/things.cloudevents"+query)
			if resp.StatusCode != 200 || body != first {
				t.Errorf("%s: %d, and not the first page", query, resp.StatusCode)
			}
		}
		if few := readBatch(t, first); len(few) != 100 {
			t.Errorf("%d events without a limit", len(few))
		}
	})
	t.Run("no cache answers without the source, also for a page that is full", func(t *testing.T) {
		appended := func(resp string) {
			t.Helper()
			appendAll(t, l, []publish.Entry{thing(numbered(9000+len(resp)), 1)})
		}
		for _, query := range []string{"?lastEventId=0", "?limit=7", "?lastEventId=" + events[349].ID} {
			resp, _ := get(t, server, "GET", "/feeds/things"+query, "Accept", feed.TypeCloudEvents)
			if h := resp.Header; h.Get("Cache-Control") != "no-cache" || h.Get("Last-Modified") != "" || h.Get("Vary") != "Accept, Accept-Encoding" {
				t.Errorf("%s: %v", query, h)
			}
			appended(query)
			again, _ := get(t, server, "GET", "/feeds/things"+query, "Accept", feed.TypeCloudEvents, "If-None-Match", resp.Header.Get("ETag"))
			if full := !strings.Contains(query, events[349].ID); (again.StatusCode == 304) != full {
				t.Errorf("%s: %d with its ETag after an append", query, again.StatusCode)
			}
		}
	})
	t.Run("links lead on, and to the other formats", func(t *testing.T) {
		resp, _ := get(t, server, "GET", "/feeds/things.cloudevents")
		want := fmt.Sprintf(`<%[1]s.cloudevents?lastEventId=0&limit=100>; rel="self"; type="%[2]s", <%[1]s.json?after=0&limit=100>; rel="alternate"; type="application/feed+json", `+
			`<%[1]s.atom?after=0&limit=100>; rel="alternate"; type="application/atom+xml", <%[1]s.html?after=0&limit=100>; rel="alternate"; type="text/html", `+
			`<%[1]s.cloudevents?lastEventId=%[3]s&limit=100>; rel="next"; type="%[2]s"`, publicURL+"/feeds/things", feed.TypeCloudEvents, events[99].ID)
		if got := resp.Header.Get("Link"); got != want {
			t.Errorf("Link: %s\nwant  %s", got, want)
		}
	})
	t.Run("what is not of the protocol is refused", func(t *testing.T) {
		wrong := strings.Replace(events[41].ID, "-", "-f", 1)[:len(events[41].ID)]
		for _, x := range []struct {
			query  string
			status int
			says   string
		}{
			{"?lastEventId=1c6b8c6e-d8d0-4a91-b51c-1f56bd04c758", 400, "parameter lastEventId"},
			{"?lastEventId=0&lastEventId=0", 400, "once"},
			{"?timeout=5s", 400, "milliseconds"},
			{"?timeout=-1", 400, "milliseconds"},
			{"?timeout=1&timeout=1", 400, "once"},
			{"?limit=1001", 400, "1 to 1000"},
			{"?after=0", 400, "lastEventId"},
			{"?before=" + events[41].ID, 400, "lastEventId"},
			{"?lastEventId=" + wrong, 410, "/problems/history-diverged"},
			{"?timeout=1&lastEventId=" + wrong, 410, "/problems/history-diverged"},
			{"/jump?to=7", 404, "nothing at this address"},
		} {
			resp, body := get(t, server, "GET", "/feeds/things.cloudevents"+x.query)
			if resp.StatusCode != x.status || !strings.Contains(body, x.says) || resp.Header.Get("Content-Type") != feed.TypeProblem || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %v %s", x.query, resp.StatusCode, resp.Header, body)
			}
			if start := "/feeds/things.cloudevents?lastEventId=0&limit=100&history="; x.status == 410 && !strings.Contains(resp.Header.Get("Link"), start) {
				t.Errorf("%s: Link: %s", x.query, resp.Header.Get("Link"))
			}
		}
	})
	t.Run("parameters of http-feeds.org mean nothing to the other formats", func(t *testing.T) {
		_, want := get(t, server, "GET", "/feeds/things.json?after=0")
		if resp, body := get(t, server, "GET", "/feeds/things.json?after=0&lastEventId=x&timeout=y"); resp.StatusCode != 200 || body != want {
			t.Errorf("%d %.100s", resp.StatusCode, body)
		}
	})
}

func readBatch(t testing.TB, body string) (batch []cloudEvent) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &batch); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return batch
}

// Of an erased entity the events say only that it is gone, under the ids that they had.
func TestCloudEventsOfErased(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 3)
	server, _ := personal(t, l, false)
	before := readEvents(t, server, "/feeds/things.cloudevents", "")
	change := publish.NewChange()
	change.Erase(feedName, numbered(2), 2, start.Add(3*time.Second))
	if err := l.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	after := readEvents(t, server, "/feeds/things.cloudevents", "")
	if len(after) != 4 {
		t.Fatalf("%d events", len(after))
	}
	for i, e := range after {
		gone := e.Subject == numbered(2).String()
		if gone != (i == 1 || i == 3) || e.Erased != gone || (e.Method == "DELETE") != gone || (e.Data == nil) != gone || i < 3 && e.ID != before[i].ID {
			t.Errorf("event %d is %+v", i, e)
		}
	}
	if resp, _ := get(t, server, "GET", "/feeds/things.cloudevents"); resp.Header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("Cache-Control: %s", resp.Header.Get("Cache-Control"))
	}
}

func TestCloudEventsTimeout(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]time.Duration{
		"": 0, "timeout=0": 0, "timeout=250": 250 * time.Millisecond, "timeout=5000": 5 * time.Second, "timeout=30000": maxWait, "timeout=99999999999": maxWait,
	} {
		r := request{mediaType: feed.TypeCloudEvents}
		if err := r.parseQuery(query); err != nil || r.timeout != want {
			t.Errorf("%q: %v, want %v (%v)", query, r.timeout, want, err)
		}
	}
	l := openLog(t, database(t))
	fill(t, l, 3)
	r := runWithin(t, l, web.Limits{Waiting: web.Bound{All: 10, Client: 1}})
	ask := func(timeout, last string) (status int, retry string, events []cloudEvent) {
		resp, err := r.ask(context.Background(), "/feeds/things.cloudevents?timeout="+timeout+"&lastEventId="+last)
		if err != nil {
			t.Error(err)
			return 0, "", nil
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode == 200 {
			events = readBatch(t, string(body))
		}
		if err != nil || resp.Header["Preference-Applied"] != nil {
			t.Errorf("%v %v", err, resp.Header)
		}
		return resp.StatusCode, resp.Header.Get("Retry-After"), events
	}
	end := head(t, l).Cursor().String()
	began := time.Now()
	if status, _, events := ask("300", end); status != 200 || len(events) != 0 || time.Since(began) < 300*time.Millisecond || time.Since(began) > 10*time.Second {
		t.Errorf("a timeout of 300 ms: %d with %d events after %v", status, len(events), time.Since(began))
	}
	if status, _, events := ask("30000", "0"); status != 200 || len(events) != 3 || time.Since(began) > 20*time.Second {
		t.Errorf("where events are there: %d with %d", status, len(events))
	}
	waited := make(chan []cloudEvent, 1)
	go func() {
		_, _, events := ask("30000", end)
		waited <- events
	}()
	r.waitForWaiters(t, 1)
	if status, retry, _ := ask("30000", end); status != 429 || retry == "" { // [] would let it ask again at once
		t.Errorf("one request more than may wait: %d, Retry-After %q", status, retry)
	}
	commit(t, l)
	if events := <-waited; len(events) != 1 || !strings.HasPrefix(events[0].ID, "4-") {
		t.Errorf("the request that waited gets %+v", events)
	}
}

func subjects(events []cloudEvent) (all []string) {
	for _, e := range events {
		all = append(all, e.Subject)
	}
	return all
}

func sameSubjects(events []cloudEvent, log []row) bool {
	return slices.EqualFunc(subjects(events), log, func(subject string, r row) bool { return subject == r.id.String() })
}
