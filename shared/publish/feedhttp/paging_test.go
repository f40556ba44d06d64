package feedhttp

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// pageJSON is what a client of the JSON format reads.
type pageJSON struct {
	Next     string `json:"next_url"`
	Datafeed struct {
		Cursor, Next, Head string
		Sealed             bool
		UpToDate           *bool `json:"up_to_date"`
	} `json:"_datafeed"`
	Items []struct {
		Datafeed struct{ Position int64 } `json:"_datafeed"`
	}
}

func readJSON(t testing.TB, server *httptest.Server, url string, header ...string) (p pageJSON) {
	t.Helper()
	resp, body := get(t, server, "GET", strings.TrimPrefix(url, publicURL), header...)
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != 200 {
		t.Fatal(url, resp.StatusCode, err)
	}
	return p
}

func TestPaging(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	for _, n := range []int{0, 1, 99, 100, 101, 199, 200, 201, 250} {
		if grow := n - len(logged(t, pool)); grow > 0 {
			err := l.InTx(t.Context(), func(tx *publish.Tx) error {
				for i := range grow {
					tx.Append(feedName, thing(numbered(1000*n+i), 1))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Run(fmt.Sprintf("back through %d entries, newest first", n), func(t *testing.T) {
			want := int64(n)
			for url := "/feeds/things"; url != ""; {
				p := readJSON(t, server, url, "Accept", []string{feed.TypeJSON, feed.TypeJSONFeed}[n%2])
				if url == "/feeds/things" && (len(p.Items) != n && len(p.Items) < 100 || len(p.Items) > 199) {
					t.Errorf("the newest view has %d entries", len(p.Items))
				}
				for _, item := range p.Items {
					if item.Datafeed.Position != want {
						t.Fatalf("position %d, want %d", item.Datafeed.Position, want)
					}
					want--
				}
				url = p.Next
			}
			if want != 0 {
				t.Errorf("the entries 1 to %d are missing", want)
			}
		})
		for _, limit := range []int64{1, 7, 100, 1000} {
			t.Run(fmt.Sprintf("forward through %d entries by %d", n, limit), func(t *testing.T) {
				position := int64(0)
				for url := fmt.Sprintf("/feeds/things?after=0&limit=%d", limit); ; {
					p := readJSON(t, server, url)
					for _, item := range p.Items {
						position++
						if item.Datafeed.Position != position {
							t.Fatalf("position %d, want %d", item.Datafeed.Position, position)
						}
					}
					sealed := position%limit == 0 && len(p.Items) > 0 && position+limit <= int64(n)
					if p.Datafeed.Sealed != sealed || sealed != (p.Datafeed.Head == "") || p.Datafeed.UpToDate == nil || sealed && *p.Datafeed.UpToDate || p.Next != "" {
						t.Errorf("%s: %+v, sealed should be %t", url, p.Datafeed, sealed)
					}
					if p.Datafeed.UpToDate == nil || *p.Datafeed.UpToDate {
						break
					}
					url = p.Datafeed.Next
				}
				if position != int64(n) {
					t.Errorf("the replay ends at %d", position)
				}
			})
		}
	}
	t.Run("a replay from the middle of a page comes to the common pages", func(t *testing.T) {
		p := readJSON(t, server, "/feeds/things?after="+cursorAt(t, pool, 42).String()+"&limit=100")
		if want := cursorAt(t, pool, 100).String(); p.Datafeed.Cursor != want || len(p.Items) != 58 {
			t.Errorf("it ends at %s with %d entries, want %s", p.Datafeed.Cursor, len(p.Items), want)
		}
	})
	t.Run("an entry that nobody can put into words is still there", func(t *testing.T) {
		poisoned := database(t)
		log := openLog(t, poisoned)
		server := serve(t, log)
		if err := log.Commit(t.Context(), put(publish.Entry{ID: numbered(1), Version: 1, Updated: start, Payload: []byte(`{"name":1}`)})); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/feeds/things.json", "/feeds/things.atom", "/feeds/things.html"} {
			if resp, body := get(t, server, "GET", path); resp.StatusCode != 200 || !strings.Contains(body, "cannot be put into words") {
				t.Errorf("%s: %d %s", path, resp.StatusCode, body)
			}
		}
	})
	t.Run("a page with a hole is not served", func(t *testing.T) {
		torn := database(t)
		fill(t, openLog(t, torn), 5)
		exec(t, torn, `delete from feed_entry where position = 3`)
		if resp, _ := get(t, serve(t, openLog(t, torn)), "GET", "/feeds/things?after=0"); resp.StatusCode != 500 {
			t.Errorf("%d", resp.StatusCode)
		}
	})
	t.Run("the links of a walk keep its history", func(t *testing.T) {
		p := readJSON(t, server, "/feeds/things?after=0&limit=100&history="+cursorAt(t, pool, 200).String())
		if !strings.HasSuffix(p.Datafeed.Next, "&history="+cursorAt(t, pool, 200).String()) {
			t.Errorf("next is %s", p.Datafeed.Next)
		}
	})
	t.Run("the same links stand in the Link header", func(t *testing.T) {
		resp, _ := get(t, server, "GET", "/feeds/things")
		p := readJSON(t, server, "/feeds/things")
		for _, want := range []string{
			"<" + p.Next + `>; rel="next"; type="application/feed+json"`,
			"<" + publicURL + `/feeds/things>; rel="self"; type="application/feed+json"`,
			"<" + publicURL + `/feeds/things.atom>; rel="alternate"; type="application/atom+xml"`,
		} {
			if !strings.Contains(resp.Header.Get("Link"), want) {
				t.Errorf("Link lacks %s: %s", want, resp.Header.Get("Link"))
			}
		}
	})
}

// Without a place to start from, a limit is that of the newest entries, and the pages behind it go on there.
func TestNewestFew(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 250)
	server := serve(t, openLog(t, pool))
	for _, limit := range []int64{1, 7, 50, 100, 249, 250, 1000} {
		position := int64(250)
		url := fmt.Sprintf("/feeds/things?limit=%d", limit)
		for first := true; url != ""; first = false {
			p := readJSON(t, server, url, "Accept", feed.TypeJSONFeed)
			if first && int64(len(p.Items)) != min(limit, 250) {
				t.Errorf("asked for %d it gives %d", limit, len(p.Items))
			}
			for _, item := range p.Items {
				if item.Datafeed.Position != position {
					t.Fatalf("limit %d: position %d where %d is next", limit, item.Datafeed.Position, position)
				}
				position--
			}
			url = p.Next
		}
		if position != 0 {
			t.Errorf("limit %d: it ends before position %d", limit, position)
		}
	}
	for _, format := range []string{"", ".atom", ".html", ".json"} {
		resp, body := get(t, server, "GET", "/feeds/things"+format+"?limit=3")
		if resp.StatusCode != 200 || strings.Contains(resp.Header.Get("Link")+body, "archive\"") {
			t.Errorf("%s: %s: %s", format, resp.Status, resp.Header.Get("Link"))
		}
		again, _ := get(t, server, "GET", "/feeds/things"+format+"?limit=3", "If-None-Match", resp.Header.Get("ETag"))
		if other, _ := get(t, server, "GET", "/feeds/things"+format+"?limit=4"); again.StatusCode != 304 || other.Header.Get("ETag") == resp.Header.Get("ETag") {
			t.Errorf("%s: %s with its ETag %s; with another limit %s", format, again.Status, resp.Header.Get("ETag"), other.Header.Get("ETag"))
		}
	}
}

// All pages say whether they are sealed and up to date, and those that are not final where the feed ended.
func TestMembersOfPages(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	if _, body := get(t, server, "GET", "/feeds/things.json?before=0"); !strings.Contains(body, `"up_to_date":false}`) {
		t.Errorf("an older page of an empty feed, which is final: %s", body)
	}
	appendAll(t, l, lives(25))
	for query, want := range map[string]struct{ sealed, upToDate, head bool }{
		"?limit=3":          {false, true, true},
		"?after=0&limit=10": {true, false, false},
		"?after=" + cursorAt(t, pool, 10).String() + "&limit=10": {false, false, true},
		"?after=" + cursorAt(t, pool, 3).String() + "&limit=10":  {false, false, true},
		"?after=" + cursorAt(t, pool, 20).String() + "&limit=10": {false, true, true},
		"?after=" + cursorAt(t, pool, 25).String() + "&limit=10": {false, true, true},
		"?before=" + cursorAt(t, pool, 20).String():              {false, false, false},
	} {
		head := ""
		if want.head {
			head = fmt.Sprintf(`,"head":"%s"`, cursorAt(t, pool, 25))
		}
		_, body := get(t, server, "GET", "/feeds/things.json"+query)
		if part := fmt.Sprintf(`"sealed":%t,"up_to_date":%t%s}`, want.sealed, want.upToDate, head); !strings.Contains(body, part) {
			t.Errorf("%s has no %s: %.900s", query, part, body)
		}
		if want.head {
			head = fmt.Sprintf(` head="%s"`, cursorAt(t, pool, 25))
		}
		_, body = get(t, server, "GET", "/feeds/things.atom"+query)
		if part := fmt.Sprintf(`sealed="%t" up-to-date="%t"%s></datafeed:page>`, want.sealed, want.upToDate, head); !strings.Contains(body, part) {
			t.Errorf("%s as Atom has no %s: %.900s", query, part, body)
		}
	}
}
