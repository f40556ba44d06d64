package publish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/mmcdole/gofeed"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// plain asks for no coding of its own accord.
var plain = &http.Transport{DisableCompression: true}

// get asks for a path of the server with headers given as name, value, name, value ...
func get(t testing.TB, server *httptest.Server, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := plain.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// cursorAt gives the cursor at a position of the log.
func cursorAt(t testing.TB, pool *pgxpool.Pool, position int64) feed.Cursor {
	t.Helper()
	var d feed.Digest
	if err := pool.QueryRow(t.Context(), `select digest from feed_entry where feed = $1 and position = $2`, feedName, position).Scan(sliceOf(&d)); err != nil {
		t.Fatal(err)
	}
	return feed.At(position, d)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 250)
	server := serve(t, pool)
	right := cursorAt(t, pool, 42).String()
	wrong := right[:len(right)-1] + string("0123456789abcdef"[(strings.IndexByte("0123456789abcdef", right[len(right)-1])+1)%16])
	for _, x := range []struct {
		name, method, path string
		header             []string
		status             int
		says               string // in the body
	}{
		{"a cursor that is none", "GET", "/feeds/things?after=yesterday", nil, 400, "parameter after"},
		{"an empty cursor", "GET", "/feeds/things?after=", nil, 400, "parameter after"},
		{"a negative cursor", "GET", "/feeds/things?after=-1-9f3c1a2b7d04", nil, 400, "parameter after"},
		{"a cursor before which to page that is none", "GET", "/feeds/things?before=0042-9f3c1a2b7d04", nil, 400, "parameter before"},
		{"a history that is none", "GET", "/feeds/things?after=0&history=x", nil, 400, "parameter history"},
		{"a limit of zero", "GET", "/feeds/things?after=0&limit=0", nil, 400, "1 to 1000"},
		{"a limit over 1000", "GET", "/feeds/things?after=0&limit=1001", nil, 400, "1 to 1000"},
		{"a limit that is no number", "GET", "/feeds/things?after=0&limit=ten", nil, 400, "1 to 1000"},
		{"a limit written in another way", "GET", "/feeds/things?after=0&limit=010", nil, 400, "1 to 1000"},
		{"a limit without after", "GET", "/feeds/things?limit=10", nil, 400, "after=0"},
		{"after and before at once", "GET", "/feeds/things?after=0&before=" + right, nil, 400, "exclude"},
		{"a parameter twice", "GET", "/feeds/things?after=0&after=" + right, nil, 400, "once"},
		{"a cursor of another history", "GET", "/feeds/things?after=" + wrong, nil, 410, "/problems/history-diverged"},
		{"a place of another history to page back from", "GET", "/feeds/things?before=" + wrong, nil, 410, "/problems/history-diverged"},
		{"a cursor past the end", "GET", "/feeds/things?after=251-9f3c1a2b7d04", nil, 410, "/problems/history-diverged"},
		{"a cursor far past the end", "GET", "/feeds/things?after=9223372036854775807-9f3c1a2b7d04", nil, 410, "/problems/history-diverged"},
		{"a feed that is not there", "GET", "/feeds/nothing", nil, 404, "/feeds lists"},
		{"a suffix that is not there", "GET", "/feeds/things.rss", nil, 404, "/feeds lists"},
		{"two suffixes", "GET", "/feeds/things.atom.json", nil, 404, "/feeds lists"},
		{"a query that is malformed", "GET", "/feeds/things?after=%zz", nil, 400, "malformed"},
		{"a semicolon for an ampersand", "GET", "/feeds/things?after=" + right + ";limit=5", nil, 400, "malformed"},
		{"a method that it does not take", "POST", "/feeds/things", nil, 405, "GET"},
		{"a format that it does not speak", "GET", "/feeds/things", []string{"Accept", "image/png"}, 406, feed.TypeAtom},
		{"every format refused", "GET", "/feeds/things", []string{"Accept", "*/*;q=0"}, 406, feed.TypeAtom},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			resp, body := get(t, server, x.method, x.path, x.header...)
			if resp.StatusCode != x.status || !strings.Contains(body, x.says) {
				t.Errorf("%d %s, want %d with %q", resp.StatusCode, body, x.status, x.says)
			}
			var p struct{ Status int }
			if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != x.status || resp.Header.Get("Content-Type") != feed.TypeProblem {
				t.Errorf("not a problem (%v): %s %s", err, resp.Header.Get("Content-Type"), body)
			}
			if cc := resp.Header.Get("Cache-Control"); cc != "no-store" {
				t.Errorf("Cache-Control: %s", cc)
			}
			switch x.status {
			case 405:
				if allow := resp.Header.Get("Allow"); !strings.Contains(allow, "GET") || !strings.Contains(allow, "HEAD") {
					t.Errorf("Allow: %s", allow)
				}
			case 406:
				if link := resp.Header.Get("Link"); !strings.Contains(link, "/feeds/things.atom>") {
					t.Errorf("Link: %s", link)
				}
			case 410: // with the way to start again, which tells its pages from those of the lost history
				start := fmt.Sprintf("<%s/feeds/things?after=0&limit=100&history=%s>; rel=\"start\"", publicURL, cursorAt(t, pool, 200))
				if link := resp.Header.Get("Link"); link != start {
					t.Errorf("Link: %s, want %s", link, start)
				}
			}
		})
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 3)
	server := serve(t, pool)
	for _, x := range []struct{ path, accept, contentType, vary string }{
		{"/feeds/things", "", feed.TypeJSONFeed, "Accept, Accept-Encoding"},
		{"/feeds/things", "*/*", feed.TypeJSONFeed, "Accept, Accept-Encoding"},
		{"/feeds/things", "application/json", feed.TypeJSON, "Accept, Accept-Encoding"},
		{"/feeds/things", "application/atom+xml", feed.TypeAtom, "Accept, Accept-Encoding"},
		{"/feeds/things", "application/feed+json;q=0.1, application/*;q=0.5, text/html;q=0.2", feed.TypeJSON, "Accept, Accept-Encoding"},
		{"/feeds/things", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", feed.TypeHTML, "Accept, Accept-Encoding"},
		{"/feeds/things.json", "text/html", feed.TypeJSONFeed, "Accept-Encoding"},
		{"/feeds/things.atom", "text/html", feed.TypeAtom, "Accept-Encoding"},
		{"/feeds/things.html", "application/json", feed.TypeHTML, "Accept-Encoding"},
	} {
		resp, _ := get(t, server, "GET", x.path, "Accept", x.accept)
		contentType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		if resp.StatusCode != 200 || contentType != x.contentType || resp.Header.Get("Vary") != x.vary {
			t.Errorf("%s as %q: %d, %s, Vary: %s", x.path, x.accept, resp.StatusCode, contentType, resp.Header.Get("Vary"))
		}
		again, body := get(t, server, "GET", x.path, "Accept", x.accept, "If-None-Match", resp.Header.Get("ETag"))
		if again.StatusCode != 304 || body != "" || again.Header.Get("Vary") != x.vary || again.Header.Get("ETag") != resp.Header.Get("ETag") || again.Header.Get("Cache-Control") != resp.Header.Get("Cache-Control") {
			t.Errorf("%s again: %d %v %q", x.path, again.StatusCode, again.Header, body)
		}
	}
	tags := map[string]string{}
	for _, path := range []string{"/feeds/things.json", "/feeds/things.atom", "/feeds/things.html", "/feeds/things", "/feeds/things?after=0", "/feeds/things?after=0&limit=3", "/feeds/things?after=0&limit=2"} {
		resp, _ := get(t, server, "GET", path)
		tag := resp.Header.Get("ETag")
		if other, taken := tags[tag]; taken || strings.HasPrefix(tag, "W/") {
			t.Errorf("%s has the ETag %s, as has %q", path, tag, other)
		}
		tags[tag] = path
	}
}

func TestConditionalRequests(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, server := openLog(t, pool), serve(t, pool)
	fill(t, l, 20)
	newest, _ := get(t, server, "GET", "/feeds/things")
	sealed, _ := get(t, server, "GET", "/feeds/things?after=0&limit=10")
	tag, sealedTag := newest.Header.Get("ETag"), sealed.Header.Get("ETag")
	modified := sealed.Header.Get("Last-Modified")
	if newest.Header.Get("Last-Modified") != "" || modified != "Mon, 23 Nov 2026 08:00:01 GMT" {
		t.Errorf("Last-Modified: %q of the newest view, %q of a sealed page", newest.Header.Get("Last-Modified"), modified)
	}
	const before, later = "Mon, 23 Nov 2026 08:00:00 GMT", "Tue, 24 Nov 2026 08:00:00 GMT"
	for _, x := range []struct {
		name, path string
		header     []string
		status     int
	}{
		{"its tag", "/feeds/things", []string{"If-None-Match", tag}, 304},
		{"its tag, weak", "/feeds/things", []string{"If-None-Match", "W/" + tag}, 304},
		{"its tag in a list", "/feeds/things", []string{"If-None-Match", `"a", W/"b,c" ,` + tag}, 304},
		{"its tag in a second field", "/feeds/things", []string{"If-None-Match", `"a"`, "If-None-Match", tag}, 304},
		{"any", "/feeds/things", []string{"If-None-Match", "*"}, 304},
		{"another tag", "/feeds/things", []string{"If-None-Match", `"a"`}, 200},
		{"its tag without quotes", "/feeds/things", []string{"If-None-Match", strings.Trim(tag, `"`)}, 200},
		{"nothing", "/feeds/things", []string{"If-None-Match", ""}, 200},
		{"the tag of another page", "/feeds/things", []string{"If-None-Match", sealedTag}, 200},
		{"a date for the newest view", "/feeds/things", []string{"If-Modified-Since", later}, 200},
		{"a later date for a sealed page, which may have been sent before it was final", "/feeds/things?after=0&limit=10", []string{"If-Modified-Since", later}, 200},
		{"its date for a sealed page", "/feeds/things?after=0&limit=10", []string{"If-Modified-Since", modified}, 304},
		{"an earlier date for a sealed page", "/feeds/things?after=0&limit=10", []string{"If-Modified-Since", before}, 200},
		{"no date for a sealed page", "/feeds/things?after=0&limit=10", []string{"If-Modified-Since", "soon"}, 200},
		{"a later date and another tag", "/feeds/things?after=0&limit=10", []string{"If-Modified-Since", later, "If-None-Match", `"a"`}, 200},
	} {
		t.Run(x.name, func(t *testing.T) {
			if resp, _ := get(t, server, "GET", x.path, x.header...); resp.StatusCode != x.status {
				t.Errorf("got %d, want %d", resp.StatusCode, x.status)
			}
		})
	}
	t.Run("after another entry", func(t *testing.T) {
		if err := l.Commit(t.Context(), put(thing(numbered(21), 1))); err != nil {
			t.Fatal(err)
		}
		if resp, _ := get(t, server, "GET", "/feeds/things", "If-None-Match", tag); resp.StatusCode != 200 || resp.Header.Get("ETag") == tag {
			t.Errorf("the newest view: %d with %s", resp.StatusCode, resp.Header.Get("ETag"))
		}
		if resp, _ := get(t, server, "GET", "/feeds/things?after=0&limit=10", "If-None-Match", sealedTag); resp.StatusCode != 304 {
			t.Errorf("a sealed page: %d, want 304", resp.StatusCode)
		}
	})
}

// A strong ETag that comes again stands for the same bytes, whatever was appended in between.
func TestETagStandsForTheBytes(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 110)
	middle := cursorAt(t, pool, 42).String()
	bodies := map[string]string{} // with the links of the header
	for i := range 20 {
		if i == 12 { // on to where an archive of 100 gets its successor
			appendAll(t, l, lives(295)[len(logged(t, pool)):])
		}
		server := serve(t, pool) // with an empty cache: it has nothing that it could serve again under an old tag
		archives := []string{"?after=0&limit=100", "?after=" + cursorAt(t, pool, 100).String() + "&limit=100"}
		if i >= 12 {
			archives = append(archives, "?after="+cursorAt(t, pool, 200).String()+"&limit=100", "?before="+cursorAt(t, pool, 201).String())
		}
		for _, path := range []string{"/feeds/things", "/feeds/things.json", "/feeds/things.atom", "/feeds/things.html"} {
			for _, query := range append(archives, "", "?before="+middle, "?after=0", "?after=0&limit=10", "?after=0&limit=110", "?after=0&limit=58", "?after="+middle+"&limit=7", "?after=0&limit=10&history="+middle) {
				resp, body := get(t, server, "GET", path+query)
				body = resp.Header.Get("Link") + "\n" + body
				key := path + query + " " + resp.Header.Get("ETag")
				if before, seen := bodies[key]; seen && before != body {
					t.Fatalf("%s stands for\n%s\nand for\n%s", key, before, body)
				}
				bodies[key] = body
			}
		}
		if err := l.Commit(t.Context(), put(thing(numbered(1000+i), 1))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCacheControl(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 25)
	server := serve(t, pool)
	for path, want := range map[string]string{
		"/feeds/things":                   "max-age=0, stale-if-error=86400",
		"/feeds/things?before=%s":         "max-age=0, stale-if-error=86400",
		"/feeds/things?after=0&limit=10":  "public, max-age=31536000, immutable",
		"/feeds/things?after=0&limit=5":   "public, max-age=31536000, immutable",
		"/feeds/things?after=0&limit=20":  "no-cache", // full, but the page after it is not
		"/feeds/things?after=0":           "no-cache",
		"/feeds/things?after=%s&limit=10": "no-cache", // starts in the middle
	} {
		path = strings.ReplaceAll(path, "%s", cursorAt(t, pool, 7).String())
		if resp, _ := get(t, server, "GET", path); resp.Header.Get("Cache-Control") != want {
			t.Errorf("%s: Cache-Control: %s, want %s", path, resp.Header.Get("Cache-Control"), want)
		}
	}
}

func TestHead(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 12)
	server := serve(t, pool)
	for _, path := range []string{"/feeds", "/feeds/things", "/feeds/things.atom", "/feeds/things.html", "/feeds/things?after=0&limit=5", "/feeds/things?after=x"} {
		whole, _ := get(t, server, "GET", path)
		head, body := get(t, server, "HEAD", path)
		delete(whole.Header, "Date")
		delete(head.Header, "Date")
		if head.StatusCode != whole.StatusCode || body != "" || !maps.EqualFunc(head.Header, whole.Header, slices.Equal) {
			t.Errorf("%s\nGET  %d %v\nHEAD %d %v %q", path, whole.StatusCode, whole.Header, head.StatusCode, head.Header, body)
		}
	}
}

// pageJSON is what a client of the JSON format reads.
type pageJSON struct {
	Next   string `json:"next_url"`
	Edison struct {
		Cursor, Next, Head string
		Sealed             bool
		UpToDate           *bool `json:"up_to_date"`
	} `json:"_edison"`
	Items []struct {
		Edison struct{ Position int64 } `json:"_edison"`
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
	l, server := openLog(t, pool), serve(t, pool)
	for _, n := range []int{0, 1, 99, 100, 101, 199, 200, 201, 250} {
		if grow := n - len(logged(t, pool)); grow > 0 {
			err := l.InTx(t.Context(), func(tx *Tx) error {
				for i := range grow {
					Append(tx, feedName, thing(numbered(1000*n+i), 1))
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
					if item.Edison.Position != want {
						t.Fatalf("position %d, want %d", item.Edison.Position, want)
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
						if item.Edison.Position != position {
							t.Fatalf("position %d, want %d", item.Edison.Position, position)
						}
					}
					sealed := position%limit == 0 && len(p.Items) > 0 && position+limit <= int64(n)
					if p.Edison.Sealed != sealed || sealed != (p.Edison.UpToDate == nil) || p.Next != "" {
						t.Errorf("%s: %+v, sealed should be %t", url, p.Edison, sealed)
					}
					if p.Edison.UpToDate != nil && *p.Edison.UpToDate {
						break
					}
					url = p.Edison.Next
				}
				if position != int64(n) {
					t.Errorf("the replay ends at %d", position)
				}
			})
		}
	}
	t.Run("a replay from the middle of a page comes to the common pages", func(t *testing.T) {
		p := readJSON(t, server, "/feeds/things?after="+cursorAt(t, pool, 42).String()+"&limit=100")
		if want := cursorAt(t, pool, 100).String(); p.Edison.Cursor != want || len(p.Items) != 58 {
			t.Errorf("it ends at %s with %d entries, want %s", p.Edison.Cursor, len(p.Items), want)
		}
	})
	t.Run("an entry that nobody can put into words is still there", func(t *testing.T) {
		poisoned := database(t)
		log, server := openLog(t, poisoned), serve(t, poisoned)
		if err := log.Commit(t.Context(), put(Entry{ID: numbered(1), Version: 1, Updated: start, Payload: []byte(`{"name":1}`)})); err != nil {
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
		if resp, _ := get(t, serve(t, torn), "GET", "/feeds/things?after=0"); resp.StatusCode != 500 {
			t.Errorf("%d", resp.StatusCode)
		}
	})
	t.Run("the links of a walk keep its history", func(t *testing.T) {
		p := readJSON(t, server, "/feeds/things?after=0&limit=100&history="+cursorAt(t, pool, 200).String())
		if !strings.HasSuffix(p.Edison.Next, "&history="+cursorAt(t, pool, 200).String()) {
			t.Errorf("next is %s", p.Edison.Next)
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

// goldenLog makes a log that is the same to the byte in every run: three things, the first changed, the second deleted.
func goldenLog(t testing.TB) *httptest.Server {
	t.Helper()
	pool := database(t)
	entries := []Entry{thing(numbered(1), 1), thing(numbered(2), 1), thing(numbered(1), 2), thing(numbered(3), 1), {ID: numbered(2), Version: 2, Updated: start.Add(1500_123_000)}}
	err := openLog(t, pool).InTx(t.Context(), func(tx *Tx) error {
		Append(tx, feedName, entries...)
		for i := range tx.pending[feedName] {
			r := &tx.pending[feedName][i]
			r.salt = bytes.Repeat([]byte{byte(i)}, 16)
			r.hash = saltedHash(r.salt, r.Payload)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, pool)
}

// Whoever rewrites the golden files because the bytes of a document changed raises the renderer's version, too.
func TestGolden(t *testing.T) {
	t.Parallel()
	server := goldenLog(t)
	for name, path := range map[string]string{
		"newest.json": "/feeds/things.json", "newest.atom": "/feeds/things.atom", "newest.html": "/feeds/things.html",
		"sealed.json": "/feeds/things.json?after=0&limit=2", "sealed.atom": "/feeds/things.atom?after=0&limit=2", "sealed.html": "/feeds/things.html?after=0&limit=2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp, body := get(t, server, "GET", path)
			var got bytes.Buffer
			resp.Header.Del("Date")
			resp.Header.Del("Content-Security-Policy")
			fmt.Fprintln(&got, path, resp.Status)
			_ = resp.Header.Write(&got)
			got.WriteString("\n" + body)
			if strings.HasSuffix(path, ".html") || strings.Contains(path, ".html?") { // what changes with the style sheet
				text := regexp.MustCompile(`(\?v=|Etag: ")[\w-]+`).ReplaceAllString(got.String(), "$1-")
				got.Reset()
				got.WriteString(text)
			}
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if normal := bytes.ReplaceAll(got.Bytes(), []byte("\r"), nil); !bytes.Equal(normal, bytes.ReplaceAll(want, []byte("\r"), nil)) {
				t.Errorf("the answer is not that of %s (-update rewrites it; raise the renderer's version with it):\n%s", file, normal)
			}
		})
	}
}

func TestReadersOfOthers(t *testing.T) {
	t.Parallel()
	server := goldenLog(t)
	for _, suffix := range []string{".atom", ".json"} {
		for _, query := range []string{"", "?after=0&limit=2"} {
			_, body := get(t, server, "GET", "/feeds/things"+suffix+query)
			f, err := gofeed.NewParser().ParseString(body)
			if err != nil {
				t.Fatalf("gofeed on %s%s: %v", suffix, query, err)
			}
			if f.Title != "Things" || len(f.Items) == 0 {
				t.Errorf("gofeed on %s%s: title %q, %d items", suffix, query, f.Title, len(f.Items))
			}
			for _, item := range f.Items {
				if item.GUID == "" || item.Title == "" || item.UpdatedParsed == nil || item.Content == "" && suffix == ".atom" {
					t.Errorf("gofeed on %s%s: item %+v", suffix, query, item)
				}
			}
		}
	}
}
