package feedhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// secret is in all that the view part does not show, and in nothing that it does.
const secret = "undisclosed"

const viewPath = "/feeds/things/views/part"

// withView is a feed whose Show tells everything, with a view.
var withView = feed.Description{
	Name: feedName, Title: "Things", Text: "All of " + secret + " things.", ID: description.ID,
	Show: func(e feed.Entry) (feed.Shown, error) {
		return feed.Shown{Title: string(e.Entity), HTML: string(e.Entity), URL: publicURL + "/" + secret, XML: string(e.Entity)}, nil
	},
	Schema: json.RawMessage(`{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"thing","type":"object","required":["name","street"],
		"properties":{"name":{"type":"string"},"city":{"type":"string"},"street":{"type":"string"},"open":{"type":"string","enum":["` + secret + `"]}}}`),
	Views: []feed.DeclaredView{
		{Name: "part", Text: "Names of open things.", Fields: []string{"name", "city"}, Where: map[string][]string{"open": {"yes"}}},
		{Name: "whole", Fields: []string{"name", "city", "street", "open"}},
	},
}

// shownThing returns an entry of the view part, and hiddenThing one outside of it.
func shownThing(id uuid.UUID, version int64) publish.Entry {
	e := thing(id, version)
	e.Payload = fmt.Appendf(nil, `{"street":"%s %d","name":"thing %d","Name":"%s","open":"yes","more":{"name":"%s"},"city":"Ghent"}`, secret, version, version, secret, secret)
	return e
}

func hiddenThing(id uuid.UUID, version int64) publish.Entry {
	e := thing(id, version)
	e.Payload = fmt.Appendf(nil, `{"name":"%s %s","open":"no","city":"%s"}`, secret, strings.Repeat("x", int(version)*20), secret)
	return e
}

// viewed returns 230 entries: things that come into the view, leave it, return, and are deleted.
func viewed() (entries []publish.Entry) {
	versions := map[int]int64{}
	for i := range 230 {
		n := i % 70
		versions[n]++
		e := shownThing(numbered(n), versions[n])
		switch {
		case (i+n)%3 == 1:
			e = hiddenThing(e.ID, e.Version)
		case (i+n)%11 == 5:
			e.Payload = nil
		}
		entries = append(entries, e)
	}
	return entries
}

func readAll(t *testing.T, url string, limit int) (entries []feed.Entry) {
	t.Helper()
	var cursor feed.Cursor
	for {
		answer, err := feedclient.New("").Get(t.Context(), feedclient.Request{URL: url, After: cursor, Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, answer.Page.Entries...)
		if cursor = answer.Page.Cursor; answer.Page.UpToDate {
			return entries
		}
	}
}

// A view has the places of its feed. It says nothing of an entry outside of it but that it is deleted, what is erased or
// superseded stays that, and no ETag is that of the feed or of another view.
func TestView(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	id, other := numbered(1), numbered(2)
	appendAll(t, l, []publish.Entry{
		shownThing(id, 1), hiddenThing(id, 2), shownThing(id, 3), hiddenThing(other, 1), shownThing(numbered(3), 1), shownThing(numbered(3), 2),
		{ID: numbered(3), Version: 3, Updated: start.Add(time.Minute)},
	})
	d := withView
	d.Personal = true
	server := httptest.NewServer(New(l, Options{Name: "Test", PublicURL: publicURL}, d))
	t.Cleanup(server.Close)
	whole, part := readAll(t, server.URL+"/feeds/things", 2), readAll(t, server.URL+viewPath, 3)
	for i, want := range []string{`{"name":"thing 1","city":"Ghent"}`, "", `{"name":"thing 3","city":"Ghent"}`, "", `{"name":"thing 1","city":"Ghent"}`, `{"name":"thing 2","city":"Ghent"}`, ""} {
		got, full := part[i], whole[i]
		if string(got.Entity) != want || got.Deleted != (want == "") || got.Erased || got.Superseded {
			t.Errorf("entry %d is %+v, %s", i+1, got, got.Entity)
		}
		if full.Position != got.Position || full.ID != got.ID || full.Version != got.Version || !full.Updated.Equal(got.Updated) {
			t.Errorf("entry %d is at another place: %+v, not %+v", i+1, got, full)
		}
	}
	tags := map[string]string{}
	for _, path := range []string{"/feeds/things", viewPath, "/feeds/things/views/whole"} {
		for _, rest := range []string{"", ".atom", "?after=0", ".html?after=0", "?snapshot=0", "/" + id.String(), "/schema"} {
			resp, body := get(t, server, "GET", path+rest)
			tag := resp.Header.Get("ETag")
			if resp.StatusCode != 200 || tag == "" || tags[tag] != "" {
				t.Errorf("%s: %d, ETag %s as %s", path+rest, resp.StatusCode, tag, tags[tag])
			}
			tags[tag] = path + rest
			if path == viewPath && strings.Contains(body, secret) {
				t.Errorf("%s has what is not in the view: %s", path+rest, body)
			}
		}
	}
	if _, body := get(t, server, "GET", viewPath+"/schema"); !strings.Contains(body, `"city"`) || strings.Contains(body, "street") || strings.Contains(body, "open") {
		t.Errorf("the view's schema is %s", body)
	}
	_, body := get(t, server, "GET", "/feeds", "Accept", "application/json")
	if want := `"views":[{"view":"part","description":"Names of open things.","fields":["name","city"],"where":{"open":["yes"]},"url":"` + publicURL + viewPath + `","schema":"` + publicURL + viewPath + `/schema"}`; !strings.Contains(body, want) {
		t.Errorf("the list of feeds lacks %s: %s", want, body)
	}
	for _, path := range []string{"/feeds/things/views", "/feeds/things/views/", "/feeds/things/views/none", "/feeds/things.json/views/part", "/feeds/things/views/part/", "/feeds/things/views/part/views/part", "/feeds/part"} {
		if resp, _ := get(t, server, "GET", path); resp.StatusCode != 404 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}

	compactAll(t, l)
	change := publish.NewChange()
	change.Erase(feedName, other, 2, start.Add(time.Hour))
	if err := l.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	part = readAll(t, server.URL+viewPath, 100)
	for i, want := range []string{"superseded", "superseded", "new", "erased", "superseded", "superseded", "deleted", "erased"} {
		got := kindOf(part[i])
		if part[i].Entity != nil {
			got = "new"
		}
		if got != want {
			t.Errorf("entry %d is %s, not %s", i+1, got, want)
		}
	}
}

// Another definition under the same name has other ETags.
func TestViewThatChanged(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	appendAll(t, l, viewed())
	source := New(l, Options{PublicURL: publicURL}, withView)
	server := httptest.NewServer(source)
	t.Cleanup(server.Close)
	before, _ := get(t, server, "GET", viewPath+"?after=0")
	changed := withView
	changed.Views = []feed.DeclaredView{{Name: "part", Fields: []string{"name", "city"}, Where: map[string][]string{"open": {"yes", "no"}}}}
	source.SetFeeds(changed)
	after, _ := get(t, server, "GET", viewPath+"?after=0")
	if before.Header.Get("ETag") == after.Header.Get("ETag") {
		t.Error("the ETag is the same")
	}
	for _, bad := range []feed.DeclaredView{{Name: "part"}, {Name: "a.json", Fields: []string{"a"}}, {Name: "a/b", Fields: []string{"a"}}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("the view %+v is taken", bad)
				}
			}()
			changed.Views = []feed.DeclaredView{bad}
			source.SetFeeds(changed)
		}()
	}
}

// A waiting reader and an event stream of a view get new entries as the view shows them.
func TestViewLive(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	appendAll(t, l, []publish.Entry{shownThing(numbered(1), 1)})
	source := New(l, Options{Name: "Test", PublicURL: publicURL}, withView)
	server := httptest.NewServer(source)
	t.Cleanup(server.Close)
	waited := make(chan string)
	at := head(t, l).Cursor()
	go func() {
		_, body := get(t, server, "GET", viewPath+"?after="+at.String(), "Prefer", "wait=30")
		waited <- body
	}()
	ctx, leave := context.WithTimeout(t.Context(), time.Minute)
	defer leave()
	tg := &target{source: source}
	streamed := make(chan string)
	events := &stream{httptest.NewRecorder(), "3-", leave}
	go func() {
		tg.ask(ctx, eventsUntil{events}, viewPath, "after=0", "Accept", feed.TypeEvents)
		streamed <- events.Body.String()
	}()
	appendAll(t, l, []publish.Entry{hiddenThing(numbered(1), 2)})
	appendAll(t, l, []publish.Entry{shownThing(numbered(1), 3)})
	if body := <-waited; strings.Contains(body, secret) || !strings.Contains(body, `"position":2`) {
		t.Errorf("the waiting reader gets %s", body)
	}
	if body := <-streamed; strings.Contains(body, secret) || strings.Count(body, "id: ") != 3 || strings.Count(body, `"entity":{"name":"thing`) != 2 || strings.Count(body, `"deleted":true`) != 1 {
		t.Errorf("the stream has %s", body)
	}
}

// An eventsUntil ends when the event of a position has come, whatever its cursor is.
type eventsUntil struct{ *stream }

func (s eventsUntil) Write(b []byte) (int, error) {
	n, err := s.ResponseRecorder.Write(b)
	if strings.Contains(s.Body.String(), "id: "+s.last) {
		s.end()
	}
	return n, err
}

// Whatever is asked below a view, nothing comes but what the view shows, and no link leads elsewhere.
func FuzzView(f *testing.F) {
	pool := database(f)
	l := openLog(f, pool)
	appendAll(f, l, viewed())
	t := &target{source: New(l, Options{Name: "Test", PublicURL: publicURL, Trace: "/trace/"}, withView)}
	c := []string{"0"}
	for position := range int64(230) {
		c = append(c, cursorAt(f, pool, position+1).String())
	}
	one, hidden := numbered(3).String(), numbered(1).String()
	for _, suffix := range []string{"", ".json", ".atom", ".html", ".cloudevents", "/" + one, "/" + hidden, "/schema", "/newer", "/jump", "/../../things", "/views/part", "/%2e%2e", ".json/" + one, "//", "/views", ".atom/jump"} {
		for _, query := range []string{"", "after=0", "after=0&limit=1000", "before=" + c[101], "snapshot=0&limit=1000", "snapshot=" + c[200] + "&from=" + one, "limit=3",
			"after=" + c[229] + "&limit=1", "to=" + one, "to=12", "to=2026-11-23", "lastEventId=0&limit=1000", "after=0&history=" + c[7], "after=9-000000000000", "view=whole", "fields=street"} {
			f.Add(suffix, query, "", "", "")
		}
	}
	for _, accept := range []string{"text/html", "application/atom+xml", "text/event-stream", "application/cloudevents-batch+json", "image/png"} {
		f.Add("", "after="+c[9], accept, "gzip", "")
		f.Add("/"+one, "", accept, "zstd", "")
		f.Add("/jump", "to=nothing", accept, "", "")
	}
	for _, tag := range []string{"*", `"a"`} {
		f.Add("", "after=0", "", "", tag)
	}
	f.Fuzz(func(test *testing.T, suffix, query, accept, coding, tag string) {
		header := []string{"Accept", accept, "Accept-Encoding", coding}
		if tag != "" {
			header = append(header, "If-None-Match", tag)
		}
		w := t.answer(viewPath+suffix, query, header...)
		body := w.Body.String()
		if w.Header().Get("Content-Encoding") != "" {
			body = decoded(test, w)
		}
		said := body + fmt.Sprint(w.Header())
		asked, _ := url.QueryUnescape(suffix + query)
		if strings.Contains(said, secret) && !strings.Contains(asked+suffix+query, secret) {
			test.Fatalf("%s?%s: %d has what is not in the view: %s", suffix, query, w.Code, said)
		}
		for _, rest := range strings.Split(said, publicURL+"/feeds/things")[1:] {
			if !strings.HasPrefix(rest, "/views/part") {
				test.Errorf("%s?%s: a link leads to /feeds/things%.60s", suffix, query, rest)
			}
		}
		if w.Code >= 500 && w.Code != 501 || strings.Contains(said, `href="/trace/`) {
			test.Errorf("%s?%s: %d %s", suffix, query, w.Code, said)
		}
	})
}

// What a view makes of an entry depends on what it shows alone.
func FuzzDeclaredView(f *testing.F) {
	for _, s := range []string{"", "x", `"`, `\`, "\x00", "é", `","name":"y`, `}`, "\xff"} {
		f.Add(s, s, true)
	}
	part := &withView.Views[0]
	f.Fuzz(func(t *testing.T, name, other string, open bool) {
		entity := func(street string) feed.Entry {
			is := "no"
			if open {
				is = "yes"
			}
			text, err := json.Marshal(map[string]string{"name": name, "open": is, "street": street, street: street})
			if err != nil {
				t.Fatal(err)
			}
			return feed.Entry{Position: 1, ID: uuid.Max, Version: 1, Entity: text}
		}
		if slices.Contains([]string{"name", "open", "city"}, other) {
			return
		}
		a, b := part.Of(entity(other)), part.Of(entity("street"))
		if string(a.Entity) != string(b.Entity) || a.Deleted != b.Deleted || a.Deleted == open {
			t.Errorf("%q and %q: %s, %s", name, other, a.Entity, b.Entity)
		}
	})
}
