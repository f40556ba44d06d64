package feedhttp

import (
	"encoding/xml"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// lives returns n entries of things that change and go: of ten or so one is a second version and one is the end of a
// thing.
func lives(n int) (entries []publish.Entry) {
	for i := range n {
		e := thing(numbered(i), 1)
		if i > 0 && entries[i-1].Payload != nil {
			last := entries[i-1]
			switch {
			case i%11 == 10:
				e = publish.Entry{ID: last.ID, Version: last.Version + 1, Updated: last.Updated.Add(1500 * time.Microsecond)}
			case i%7 == 6:
				e = thing(last.ID, last.Version+1)
			}
		}
		entries = append(entries, e)
	}
	return entries
}

func appendAll(t testing.TB, l *publish.Log, entries []publish.Entry) {
	t.Helper()
	if len(entries) == 0 {
		return
	}
	err := l.InTx(t.Context(), func(tx *publish.Tx) error {
		tx.Append(feedName, entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// atomFeed is what a reader knows who has read RFC 4287, 5005 and 6721 and nothing of ours.
type atomFeed struct {
	XMLName xml.Name    `xml:"http://www.w3.org/2005/Atom feed"`
	IDs     []string    `xml:"http://www.w3.org/2005/Atom id"`
	Titles  []string    `xml:"http://www.w3.org/2005/Atom title"`
	Updated []time.Time `xml:"http://www.w3.org/2005/Atom updated"`
	Authors []struct {
		Name string `xml:"http://www.w3.org/2005/Atom name"`
	} `xml:"http://www.w3.org/2005/Atom author"`
	Links   []atomLink `xml:"http://www.w3.org/2005/Atom link"`
	Archive *struct{}  `xml:"http://purl.org/syndication/history/1.0 archive"`
	Entries []struct {
		IDs     []string    `xml:"http://www.w3.org/2005/Atom id"`
		Titles  []string    `xml:"http://www.w3.org/2005/Atom title"`
		Updated []time.Time `xml:"http://www.w3.org/2005/Atom updated"`
		Content []struct {
			Type string `xml:"type,attr"`
			Text string `xml:",chardata"`
		} `xml:"http://www.w3.org/2005/Atom content"`
		Names []string `xml:"https://edison-cars.example/ns/thing thing>name"`
	} `xml:"http://www.w3.org/2005/Atom entry"`
	Deleted []struct {
		Ref  string    `xml:"ref,attr"`
		When time.Time `xml:"when,attr"`
	} `xml:"http://purl.org/atompub/tombstones/1.0 deleted-entry"`
}

type atomLink struct {
	Rel  string `xml:"rel,attr"`
	Href string `xml:"href,attr"`
	Type string `xml:"type,attr"`
}

func (f *atomFeed) link(rel string) string {
	for _, l := range f.Links {
		if l.Rel == rel {
			return l.Href
		}
	}
	return ""
}

// A state is one version of an entity, as Atom tells versions apart.
type state struct {
	id      string
	updated time.Time
	deleted bool
}

func statesOf(entries []publish.Entry) map[state]int {
	states := map[state]int{}
	for _, e := range entries {
		states[state{e.ID.URN(), e.Updated, e.Payload == nil}]++
	}
	return states
}

func (f *atomFeed) states() (states []state) {
	for _, e := range f.Entries {
		states = append(states, state{e.IDs[0], e.Updated[0], false})
	}
	for _, d := range f.Deleted {
		states = append(states, state{d.Ref, d.When, true})
	}
	return states
}

// readAtom reads a document and checks it by RFC 4287 section 4.1 and RFC 6721 section 3.
func readAtom(t testing.TB, server *httptest.Server, url string) *atomFeed {
	t.Helper()
	resp, body := get(t, server, "GET", strings.TrimPrefix(url, publicURL))
	f := &atomFeed{}
	if err := xml.Unmarshal([]byte(body), f); err != nil || resp.StatusCode != 200 {
		t.Fatal(url, resp.StatusCode, err)
	}
	if len(f.IDs) != 1 || f.IDs[0] != description.ID || len(f.Titles) != 1 || len(f.Updated) != 1 || len(f.Authors) != 1 || f.Authors[0].Name == "" {
		t.Errorf("%s: ids %q, titles %q, updated %v, authors %v", url, f.IDs, f.Titles, f.Updated, f.Authors)
	}
	var header []string
	kinds := map[string]bool{}
	for _, l := range f.Links {
		header = append(header, fmt.Sprintf(`<%s>; rel="%s"; type="%s"`, l.Href, l.Rel, l.Type))
		if kind := l.Rel + " " + l.Type; kinds[kind] {
			t.Errorf("%s: two links of %s", url, kind)
		} else {
			kinds[kind] = true
		}
	}
	if got := resp.Header.Get("Link"); got != strings.Join(header, ", ") {
		t.Errorf("%s: Link is\n%s\nand in the document\n%s", url, got, strings.Join(header, ", "))
	}
	for _, e := range f.Entries {
		if len(e.IDs) != 1 || len(e.Titles) != 1 || e.Titles[0] == "" || len(e.Updated) != 1 {
			t.Fatalf("%s: entry %+v", url, e)
		}
		if len(e.Content) != 1 || e.Content[0].Type != "html" || e.Content[0].Text == "" || len(e.Names) != 1 || e.Names[0] == "" {
			t.Errorf("%s: an entry without words or without its entity: %+v", url, e)
		}
		if e.Updated[0].After(f.Updated[0]) {
			t.Errorf("%s is of %s, its entry of %s", url, f.Updated[0], e.Updated[0])
		}
	}
	seen := map[state]bool{}
	for _, s := range f.states() {
		if !strings.HasPrefix(s.id, "urn:uuid:") || s.updated.IsZero() || seen[s] {
			t.Errorf("%s: %+v, twice: %t", url, s, seen[s])
		}
		seen[s] = true
	}
	return f
}

// readHistory returns what a reader gets who knows Atom and RFC 5005: the subscription document, then the archive
// documents back to the first.
func readHistory(t testing.TB, server *httptest.Server, between func()) map[state]int {
	t.Helper()
	got := map[state]int{}
	subscription := readAtom(t, server, "/feeds/things.atom")
	if subscription.Archive != nil || subscription.link("next-archive") != "" || subscription.link("current") != subscription.link("self") {
		t.Errorf("the subscription document calls itself an archive, or another one current: %+v", subscription.Links)
	}
	for doc := subscription; ; {
		for _, s := range doc.states() {
			got[s]++
		}
		url := doc.link("prev-archive")
		if url == "" {
			return got
		}
		between()
		archive := readAtom(t, server, url)
		if archive.Archive == nil || archive.link("self") != url || archive.link("current") != subscription.link("self") || len(archive.states()) != feed.PageSize {
			t.Errorf("%s is no archive document of this feed: %+v", url, archive.Links)
		}
		if next := archive.link("next-archive"); next == "" || doc != subscription && next != doc.link("self") {
			t.Errorf("%s is followed by %q, while it is before %s", url, next, doc.link("self"))
		}
		doc = archive
	}
}

func TestReaderOfArchives(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	all, n := lives(2000), 0
	grow := func(by int) {
		appendAll(t, l, all[n:n+by])
		n += by
	}
	check := func(t *testing.T, between func()) {
		t.Helper()
		want := statesOf(all[:n])
		if got := readHistory(t, server, between); !maps.Equal(got, want) {
			t.Errorf("%d states, want %d, each once", len(got), len(want))
		}
	}
	for _, size := range []int{0, 1, 99, 100, 101, 199, 200, 201, 350} {
		grow(size - n)
		t.Run(fmt.Sprintf("%d entries", size), func(t *testing.T) { check(t, func() {}) })
	}
	for _, by := range []int{1, 50, 100, 150} {
		t.Run(fmt.Sprintf("%d more between its requests", by), func(t *testing.T) { check(t, func() { grow(by) }) })
	}
}

func TestArchiveDocuments(t *testing.T) {
	t.Parallel()
	pool := database(t)
	appendAll(t, openLog(t, pool), lives(350))
	server := serve(t, openLog(t, pool))
	at := func(position int64) string { return cursorAt(t, pool, position).String() }
	for _, x := range []struct {
		name, query string
		archive     bool
		links       []string // rel and query of those that lead through the archive or the pages
	}{
		{"the newest entries", "", false, []string{"current ", "first ", "next ?before=" + at(201), "prev-archive ?after=" + at(100) + "&limit=100"}},
		{"older entries", "?before=" + at(201), false, []string{"current ", "first ", "next ?before=" + at(101)}},
		{"the oldest entries", "?before=" + at(101), false, []string{"current ", "first "}},
		{"the first page", "?after=0&limit=100", true, []string{"current ", "next ?after=" + at(100) + "&limit=100", "next-archive ?after=" + at(100) + "&limit=100"}},
		{"the first page, when nobody gives the limit", "?after=0", true, []string{"current ", "next ?after=" + at(100) + "&limit=100", "next-archive ?after=" + at(100) + "&limit=100"}},
		{"a sealed page", "?after=" + at(100) + "&limit=100", true, []string{"current ", "next ?after=" + at(200) + "&limit=100", "next-archive ?after=" + at(200) + "&limit=100", "prev-archive ?after=0&limit=100"}},
		{"a sealed page of a walk", "?after=" + at(200) + "&limit=100&history=" + at(300), true, []string{"current ?history=" + at(300), "next ?after=" + at(300) + "&limit=100&history=" + at(300), "prev-archive ?after=" + at(100) + "&limit=100&history=" + at(300)}},
		{"a full page that is not sealed", "?after=" + at(200) + "&limit=100", true, []string{"current ", "next ?after=" + at(300) + "&limit=100", "prev-archive ?after=" + at(100) + "&limit=100"}},
		{"the tail", "?after=" + at(300) + "&limit=100", false, []string{"current "}},
		{"the end", "?after=" + at(350) + "&limit=100", false, []string{"current "}},
		{"from the middle of a page", "?after=" + at(42) + "&limit=100", false, []string{"current ", "next ?after=" + at(100) + "&limit=100"}},
		{"a sealed page of another size", "?after=" + at(100) + "&limit=50", false, []string{"current ", "next ?after=" + at(150) + "&limit=50"}},
		{"a hundred of a larger page", "?after=" + at(250) + "&limit=350", false, []string{"current "}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			if f := readAtom(t, server, "/feeds/things.atom"+x.query); (f.Archive != nil) != x.archive {
				t.Errorf("fh:archive: %t, want %t", f.Archive != nil, x.archive)
			}
			for suffix, mediaType := range map[string]string{".atom": feed.TypeAtom, ".json": feed.TypeJSONFeed, ".html": feed.TypeHTML} {
				resp, _ := get(t, server, "GET", "/feeds/things"+suffix+x.query)
				var links []string
				for link := range strings.SplitSeq(resp.Header.Get("Link"), ", ") {
					href, rel, _ := strings.Cut(link, `>; rel="`)
					rel, linkType, _ := strings.Cut(rel, `"; type=`)
					if rel == "self" || rel == "alternate" || rel == "archives" {
						continue
					}
					links = append(links, rel+" "+strings.TrimPrefix(href, "<"+publicURL+"/feeds/things"+suffix))
					if linkType != `"`+mediaType+`"` {
						t.Errorf("%s: %s", suffix, link)
					}
				}
				if slices.Sort(links); !slices.Equal(links, x.links) {
					t.Errorf("%s has the links\n%q\nwant\n%q", suffix, links, x.links)
				}
			}
		})
	}
}

// pageQueries returns the queries of all pages of a feed: back from the newest, and forward from the start.
func pageQueries(t testing.TB, server *httptest.Server, pool *pgxpool.Pool) (queries []string) {
	t.Helper()
	const base = publicURL + "/feeds/things.json"
	for url := base; url != ""; {
		queries = append(queries, strings.TrimPrefix(url, base))
		url = readJSON(t, server, url).Next
	}
	end := int64(len(logged(t, pool)))
	for position := int64(0); position < end; position += feed.PageSize {
		after := feed.Cursor{}
		if position > 0 {
			after = cursorAt(t, pool, position)
		}
		queries = append(queries, "?after="+after.String()+"&limit=100")
	}
	return append(queries, "?after="+cursorAt(t, pool, end).String()+"&limit=100")
}
