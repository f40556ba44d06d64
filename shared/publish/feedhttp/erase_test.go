package feedhttp

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// personal returns a server of the same feed, of people.
func personal(t testing.TB, l *publish.Log, private bool) (*httptest.Server, *Source) {
	t.Helper()
	d := description
	d.Personal = true
	source := New(l, Options{Name: "Test", PublicURL: publicURL, Private: private}, d)
	server := httptest.NewServer(source)
	t.Cleanup(server.Close)
	return server, source
}

func TestErase(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	ada, bob := uuid.New(), uuid.New()
	person := func(id uuid.UUID, version int64, name string) publish.Entry {
		e := thing(id, version)
		e.Payload = []byte(`{"name":"` + name + `"}`)
		return e
	}
	appendAll(t, l, []publish.Entry{person(ada, 1, "Ada"), person(bob, 1, "Bob"), person(ada, 2, "Ada Lovelace")})
	fill(t, l, 250)
	server, source := personal(t, l, false)
	replica, _ := personal(t, openLog(t, pool), false)
	reader := &poller{url: server.URL + "/feeds/" + feedName, limit: 100}
	reader.poll(t)
	before := reader.cursor

	paths := []string{"?after=0", "?after=0&limit=2", "?before=" + cursorAt(t, pool, 50).String(), ".atom?after=0", ".html?after=0", "?snapshot=0&limit=1000", ".atom?snapshot=0&limit=1000"}
	tags := map[string]string{}
	for _, path := range paths {
		resp, body := get(t, server, "GET", "/feeds/things"+path)
		if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "private, no-cache" || resp.Header.Get("Last-Modified") != "" || !strings.Contains(body, "Ada") {
			t.Fatalf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
		if strings.Contains(body, `"sealed":true`) || strings.Contains(body, "fh:archive") || strings.Contains(resp.Header.Get("Link"), "archive\"") {
			t.Errorf("%s claims to be final: %v", path, resp.Header)
		}
		tags[path] = resp.Header.Get("ETag")
		get(t, replica, "GET", "/feeds/things"+path)
	}

	change := publish.NewChange()
	change.Erase(feedName, ada, 3, start.Add(3*time.Second))
	if err := l.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	logged(t, pool) // digests and positions are what they were
	var left int
	err := pool.QueryRow(t.Context(), `select count(*) from feed_entry where entity_id = $1 and (payload is not null or salt is not null)`, ada).Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d entries still say something (%v)", left, err)
	}
	if t2 := head(t, l); t2.Erasures != 1 {
		t.Errorf("the head counts %d erasures", t2.Erasures)
	}
	for _, path := range paths {
		for _, s := range []*httptest.Server{server, replica} {
			var resp *http.Response
			var body string
			waitFor(t, "the replica to hear of it", func() bool {
				resp, body = get(t, s, "GET", "/feeds/things"+path, "If-None-Match", tags[path])
				return resp.StatusCode == 200
			})
			if strings.Contains(body, "Ada") || !strings.Contains(body, "Bob") || resp.Header.Get("ETag") == tags[path] {
				t.Errorf("%s: %v", path, resp.Header)
			}
		}
	}
	for _, doc := range source.cache.byTag {
		if d := doc.Value.(*cached); strings.Contains(string(d.body), "Ada") {
			t.Error("the cache still has a document with the name")
		}
	}
	p, err := feedclient.New("").Get(t.Context(), feedclient.Request{URL: reader.url, Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i, deleted := range []bool{true, false, true} {
		if e := p.Page.Entries[i]; e.Deleted != deleted || (e.Entity == nil) != deleted {
			t.Errorf("entry %d is served as %+v", i+1, e)
		}
	}
	reader.poll(t) // its cursor is as good as ever
	if n := len(reader.seen); reader.cursor.Position != before.Position+1 || n != 254 || reader.seen[n-1].id != ada {
		t.Errorf("it read on to %s", reader.cursor)
	}
}
