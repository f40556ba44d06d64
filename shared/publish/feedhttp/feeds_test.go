package feedhttp

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// What SetFeeds sets is served from then on: new feeds, other words with other ETags, and no feed that is left out.
func TestSetFeeds(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 2)
	source := New(l, Options{PublicURL: publicURL}, feed.Description{Name: feedName})
	server := httptest.NewServer(source)
	t.Cleanup(server.Close)
	get := func(path string, want int) (body, tag string, header http.Header) {
		t.Helper()
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s: %v %s\n%s", path, err, resp.Status, text)
		}
		return string(text), resp.Header.Get("ETag"), resp.Header
	}
	sealed := "/feeds/things?after=0&limit=1"
	_, before, header := get(sealed, http.StatusOK)
	if control := header.Get("Cache-Control"); !strings.Contains(control, "immutable") {
		t.Errorf("a page of a feed of no person: %s", control)
	}
	get("/feeds/parts", http.StatusNotFound)

	if _, err := pool.Exec(t.Context(), `select feed_create('parts', title => 'Parts', personal => false)`); err != nil {
		t.Fatal(err)
	}
	feeds, err := l.Feeds(t.Context())
	if err != nil || fmt.Sprint(feeds) != "[{parts Parts   <nil> false [] [] false} {things    <nil> true [] [] false}]" {
		t.Fatalf("%+v %v", feeds, err)
	}
	feeds[1].Title, feeds[1].Text = "All things", "Everything."
	source.SetFeeds(feeds...)
	if body, _, _ := get("/feeds/parts", http.StatusOK); !strings.Contains(body, `"title":"Parts"`) {
		t.Errorf("a new feed: %s", body)
	}
	body, after, header := get(sealed, http.StatusOK)
	if !strings.Contains(body, `"title":"All things"`) || after == before || header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("a feed with another title, of people: %v\n%s", header, body)
	}
	if body, _, _ = get("/feeds", http.StatusOK); strings.Index(body, `"parts"`) > strings.Index(body, `"things"`) || !strings.Contains(body, `"Everything."`) {
		t.Errorf("the list of feeds: %s", body)
	}

	if !strings.Contains(body, `"feed":"parts"`) || strings.Contains(header.Get("Link"), "describedby") {
		t.Errorf("feeds without a schema: %v %s", header, body)
	}
	get("/feeds/things/schema", http.StatusNotFound)

	feeds[1].Schema, feeds[1].Personal = []byte(`{"type":"object"}`), false
	source.SetFeeds(feeds...)
	_, described, header := get(sealed, http.StatusOK)
	at := publicURL + "/feeds/things/schema"
	if link := "<" + at + `>; rel="describedby"; type="application/schema+json"`; described == after || !strings.Contains(header.Get("Link"), link) {
		t.Errorf("a page of a feed with a schema: %v", header)
	}
	for path, says := range map[string]string{"/feeds": `"schema":"` + at + `"`, "/feeds/things.atom": `<link href="` + at + `" rel="describedby"`, "/feeds/things.html": `href="` + at + `">JSON Schema`} {
		if body, _, _ := get(path, http.StatusOK); !strings.Contains(body, says) {
			t.Errorf("%s does not link to the schema:\n%s", path, body)
		}
	}
	body, tag, header := get("/feeds/things/schema", http.StatusOK)
	if body != `{"type":"object"}` || header.Get("Content-Type") != "application/schema+json" || header.Get("Cache-Control") != "no-cache" {
		t.Errorf("the schema: %v %s", header, body)
	}
	req, err := http.NewRequest("GET", server.URL+"/feeds/things/schema", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, header := get(sealed, http.StatusOK); !strings.Contains(header.Get("Link"), `; type="application/schema+json"; etag=`+tag) {
		t.Errorf("a page does not say which schema there is, %s: %v", tag, header)
	}
	req.Header.Set("If-None-Match", tag)
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusNotModified {
		t.Error("the same schema again:", resp, err)
	}

	source.SetFeeds(feeds[0])
	get("/feeds/things/schema", http.StatusNotFound)
	get(sealed, http.StatusNotFound)
	get("/feeds/things/"+numbered(1).String(), http.StatusNotFound)
}
