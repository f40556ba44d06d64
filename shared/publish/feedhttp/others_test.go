package feedhttp

import (
	"bytes"
	"encoding/json"
	"os"
	osexec "os/exec" // exec is SQL here
	"strings"
	"testing"

	"github.com/mmcdole/gofeed"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// The pages of a feed of 350 entries, as readers that are not ours understand them.

func TestGofeed(t *testing.T) {
	t.Parallel()
	pool := database(t)
	appendAll(t, openLog(t, pool), lives(350))
	server := serve(t, openLog(t, pool))
	for _, query := range pageQueries(t, server, pool) {
		want := readAtom(t, server, "/feeds/things.atom"+query)
		for suffix, n := range map[string]int{".atom": len(want.Entries), ".json": len(want.states())} {
			_, body := get(t, server, "GET", "/feeds/things"+suffix+query)
			f, err := gofeed.NewParser().ParseString(body)
			if err != nil {
				t.Errorf("%s%s: %v", suffix, query, err)
				continue
			}
			if f.Title != description.Title || f.FeedLink == "" || len(f.Items) != n {
				t.Errorf("%s%s: title %q, link %q, %d items, want %d", suffix, query, f.Title, f.FeedLink, len(f.Items), n)
			}
			for _, item := range f.Items {
				if !strings.HasPrefix(item.GUID, "urn:uuid:") || item.Title == "" || item.UpdatedParsed == nil || item.Title != "Deleted" && (item.Content == "" || item.Link == "") {
					t.Errorf("%s%s: item %+v", suffix, query, item)
				}
			}
		}
	}
}

// feedparserScript reads URLs as a JSON array and writes for each what feedparser made of it, and the status when it
// asks again with the ETag.
const feedparserScript = `
import feedparser, json, sys
def read(url):
    d = feedparser.parse(url)
    return dict(
        bozo=str(d.get("bozo_exception", "")) if d.bozo else "", version=d.version, title=d.feed.get("title"), id=d.feed.get("id"),
        links={l.rel: l.href for l in d.feed.get("links", [])},
        entries=[dict(id=e.get("id"), title=e.get("title"), link=e.get("link"), updated=list(e.get("updated_parsed") or []),
                      content=[c.value for c in e.get("content", [])]) for e in d.entries],
        again=feedparser.parse(url, etag=d.get("etag")).get("status"))
json.dump([read(url) for url in json.load(sys.stdin)], sys.stdout)
`

func TestFeedparser(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "other programs")
	python := "/usr/bin/python3" // Debian's packages are for this one
	if _, err := os.Stat(python); err != nil {
		python = "python3"
	}
	if out, err := osexec.CommandContext(t.Context(), python, "-c", "import feedparser").CombinedOutput(); err != nil {
		t.Skipf("needs Python's feedparser (Debian: apt-get install python3-feedparser): %v %s", err, out)
	}
	pool := database(t)
	appendAll(t, openLog(t, pool), lives(350))
	server := serve(t, openLog(t, pool))
	var paths, urls []string
	for _, query := range pageQueries(t, server, pool) {
		paths = append(paths, "/feeds/things.atom"+query)
	}
	paths = append(paths, "/feeds/things") // it gets Atom by its Accept
	for _, path := range paths {
		urls = append(urls, server.URL+path)
	}
	list, err := json.Marshal(urls)
	if err != nil {
		t.Fatal(err)
	}
	cmd := osexec.CommandContext(t.Context(), python, "-c", feedparserScript)
	var said bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stderr = append(os.Environ(), "no_proxy=*"), bytes.NewReader(list), &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	var read []struct {
		Bozo, Version, Title, ID string
		Links                    map[string]string
		Entries                  []struct {
			ID, Title, Link string
			Updated         []int
			Content         []string
		}
		Again int
	}
	if err := json.Unmarshal(out, &read); err != nil || len(read) != len(paths) {
		t.Fatalf("%v: %s", err, out)
	}
	for i, got := range read {
		if got.Bozo != "" || got.Version != "atom10" || got.Title != description.Title || got.ID != description.ID || got.Again != 304 {
			t.Errorf("%s: bozo %q, version %q, title %q, id %q, then %d", paths[i], got.Bozo, got.Version, got.Title, got.ID, got.Again)
		}
		if paths[i] == "/feeds/things" {
			continue
		}
		want := readAtom(t, server, paths[i])
		if got.Links["prev-archive"] != want.link("prev-archive") || len(got.Entries) != len(want.Entries) {
			t.Errorf("%s: links %v and %d entries, want %+v and %d", paths[i], got.Links, len(got.Entries), want.Links, len(want.Entries))
			continue
		}
		for j, e := range got.Entries {
			w := want.Entries[j]
			if e.ID != w.IDs[0] || e.Title != w.Titles[0] || e.Link == "" || len(e.Updated) < 6 || e.Updated[5] != w.Updated[0].Second() || len(e.Content) != 1 || e.Content[0] != w.Content[0].Text {
				t.Errorf("%s: entry %+v, want %+v", paths[i], e, w)
			}
		}
	}
}

func TestJSONFeedSchema(t *testing.T) {
	t.Parallel()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	schema, err := compiler.Compile("testdata/jsonfeed-1.1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	pool := database(t)
	empty := serve(t, openLog(t, database(t)))
	appendAll(t, openLog(t, pool), lives(350))
	server := serve(t, openLog(t, pool))
	check := func(body string) error {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			return err
		}
		return schema.Validate(v)
	}
	_, body := get(t, empty, "GET", "/feeds/things.json")
	if err := check(body); err != nil {
		t.Errorf("an empty feed: %v", err)
	}
	for _, query := range pageQueries(t, server, pool) {
		_, body = get(t, server, "GET", "/feeds/things.json"+query)
		if err := check(body); err != nil {
			t.Errorf("%s: %v", query, err)
		}
	}
	_, body = get(t, server, "GET", "/feeds/things.json?after=0&limit=1")
	for name, bad := range map[string]string{
		"an item without an id":          strings.Replace(body, `"id":`, `"_id":`, 1),
		"an item without content":        strings.Replace(body, `"content_html":`, `"summary":`, 1),
		"a time that is none":            strings.Replace(body, `"date_modified":"`, `"date_modified":"on `, 1),
		"a URL that is none":             strings.Replace(body, `"feed_url":"`, `"feed_url":"//[`, 1),
		"a name of nobody's":             strings.Replace(body, `"_datafeed":`, `"edison":`, 1),
		"an extension that is no object": strings.Replace(body, `"_datafeed":{`, `"_more":1,"_datafeed":{`, 1),
		"an extension with a dot":        strings.Replace(body, `"cursor":`, `"cur.sor":`, 1),
	} {
		if bad == body || check(bad) == nil {
			t.Errorf("%s passes", name)
		}
	}
}
