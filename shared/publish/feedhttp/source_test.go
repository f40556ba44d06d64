package feedhttp

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
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

// cursorAt returns the cursor at a position of the log.
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
	server := serve(t, openLog(t, pool))
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
		{"a limit of older entries", "GET", "/feeds/things?limit=10&before=" + right, nil, 400, "not with before"},
		{"after and before at once", "GET", "/feeds/things?after=0&before=" + right, nil, 400, "exclude"},
		{"after and snapshot at once", "GET", "/feeds/things?snapshot=0&after=0", nil, 400, "exclude"},
		{"before and snapshot at once", "GET", "/feeds/things?snapshot=0&before=" + right, nil, 400, "exclude"},
		{"a snapshot that is none", "GET", "/feeds/things?snapshot=yes", nil, 400, "parameter snapshot"},
		{"two snapshots", "GET", "/feeds/things?snapshot=0&snapshot=0", nil, 400, "once"},
		{"a limit over 1000 of a snapshot", "GET", "/feeds/things?snapshot=0&limit=1001", nil, 400, "1 to 1000"},
		{"from without a snapshot", "GET", "/feeds/things?from=" + numbered(1).String(), nil, 400, "parameter from"},
		{"from in a replay", "GET", "/feeds/things?after=0&from=" + numbered(1).String(), nil, 400, "parameter from"},
		{"from of a snapshot that begins", "GET", "/feeds/things?snapshot=0&from=" + numbered(1).String(), nil, 400, "parameter from"},
		{"from that is no id", "GET", "/feeds/things?snapshot=" + right + "&from=1", nil, 400, "UUID"},
		{"from that is empty", "GET", "/feeds/things?snapshot=" + right + "&from=", nil, 400, "UUID"},
		{"from in upper case", "GET", "/feeds/things?snapshot=" + right + "&from=" + strings.ToUpper(numbered(1).String()), nil, 400, "UUID"},
		{"a stream of a snapshot", "GET", "/feeds/things?snapshot=0", []string{"Accept", feed.TypeEvents}, 400, "event stream"},
		{"a snapshot of CloudEvents after an event", "GET", "/feeds/things.cloudevents?snapshot=0&lastEventId=" + right, nil, 400, "exclude"},
		{"a snapshot of CloudEvents that waits", "GET", "/feeds/things.cloudevents?snapshot=0&timeout=1", nil, 400, "exclude"},
		{"a snapshot of another history", "GET", "/feeds/things?snapshot=" + wrong + "&from=" + numbered(1).String(), nil, 410, "/problems/history-diverged"},
		{"a snapshot from past the end", "GET", "/feeds/things?snapshot=251-9f3c1a2b7d04", nil, 410, "/problems/history-diverged"},
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

// What clients send where the address of a feed was given to them.
func TestAccept(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 3)
	server := serve(t, openLog(t, pool))
	const refused = ""
	for _, x := range []struct{ client, accept, want string }{
		{"RSS or anything", "application/rss+xml, */*", feed.TypeAtom},
		{"RSS or, less, anything", "application/rss+xml, */*;q=0.1", feed.TypeAtom},
		{"anything or RSS", "*/*, application/rss+xml", feed.TypeAtom},
		{"RSS alone", "application/rss+xml", feed.TypeAtom},
		{"RDF alone", "application/rdf+xml", feed.TypeAtom},
		{"XML alone", "text/xml", feed.TypeAtom},
		{"XML of either name", "text/xml, application/xml;q=0.9, */*;q=0.8", feed.TypeAtom},
		{"XML or anything", "application/xml, */*", feed.TypeAtom},
		{"XML or, less, anything", "application/xml;q=0.9, */*;q=0.8", feed.TypeAtom},
		{"XML with a charset", "application/xml;charset=utf-8, */*;q=0.5", feed.TypeAtom},
		{"XML in capitals", "Application/XML, */*", feed.TypeAtom},
		{"Universal Feed Parser", "application/atom+xml,application/rdf+xml,application/rss+xml,application/x-netcdf,application/xml;q=0.9,text/xml;q=0.2,*/*;q=0.1", feed.TypeAtom},
		{"SimplePie", "application/atom+xml, application/rss+xml, application/rdf+xml;q=0.9, application/xml;q=0.8, text/xml;q=0.8, text/html;q=0.7, unknown/unknown;q=0.1, application/unknown;q=0.1, */*;q=0.1", feed.TypeAtom},
		{"Miniflux", "application/xml, application/atom+xml, application/rss+xml, application/rdf+xml, application/feed+json, text/html, */*;q=0.9", feed.TypeAtom},
		{"Liferea", "application/atom+xml,application/xml;q=0.9,text/xml;q=0.8,*/*;q=0.7", feed.TypeAtom},
		{"Inoreader", "application/rss+xml, application/rdf+xml;q=0.8, application/atom+xml;q=0.6, application/xml;q=0.4, text/xml;q=0.4", feed.TypeAtom},
		{"Thunderbird", "application/atom+xml,application/rss+xml;q=0.9,application/rdf+xml;q=0.8,application/xml;q=0.7,text/xml;q=0.7,*/*;q=0.1", feed.TypeAtom},
		{"RSS rather than a page", "application/rss+xml, application/atom+xml;q=0.6, text/html;q=0.7", feed.TypeAtom},
		{"an AtomPub client", "application/atom+xml;type=feed, */*;q=0.1", feed.TypeAtom},
		{"rest-client of Ruby, for XML", "*/*; q=0.5, application/xml", feed.TypeAtom},
		{"a reader of JSON Feed", "application/feed+json, application/json;q=0.9, */*;q=0.1", feed.TypeJSONFeed},
		{"curl", "*/*", feed.TypeJSONFeed},
		{"Go", "", feed.TypeJSONFeed},
		{"axios", "application/json, text/plain, */*", feed.TypeJSON},
		{"jQuery", "application/json, text/javascript, */*; q=0.01", feed.TypeJSON},
		{"RestTemplate of Spring", "text/plain, application/json, application/*+json, */*", feed.TypeJSON},
		{"RestTemplate with XML", "application/xml, text/xml, application/json, application/*+xml, application/*+json", feed.TypeJSON},
		{"EventSource", "text/event-stream", feed.TypeEvents},
		{"Chrome", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7", feed.TypeHTML},
		{"Firefox and Safari", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", feed.TypeHTML},
		{"Edge, before it was Chrome", "text/html, application/xhtml+xml, image/jxr, */*", feed.TypeHTML},
		{"Android, before it was Chrome", "application/xml,application/xhtml+xml,text/html;q=0.9,text/plain;q=0.8,image/png,*/*;q=0.5", feed.TypeHTML},
		{"lynx", "text/html, text/plain, text/sgml, text/css, */*;q=0.01", feed.TypeHTML},
		{"w3m", "text/html, text/*;q=0.5, image/*, application/*", feed.TypeHTML},
		{"HttpURLConnection of Java", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", feed.TypeHTML},
		{"any text", "text/*", feed.TypeHTML},
		{"any application", "application/*", feed.TypeJSONFeed},
		{"anything rather than XML", "application/xml;q=0.1, */*", feed.TypeJSONFeed},
		{"anything rather than Atom", "application/atom+xml;q=0.1, */*", feed.TypeJSONFeed},
		{"anything but RSS", "application/rss+xml;q=0, */*", feed.TypeJSONFeed},
		{"XML refused", "application/xml;q=0", refused},
		{"an image", "image/png, image/*;q=0.8", refused},
	} {
		if x.want == feed.TypeEvents { // which does not end
			if got := negotiate(x.accept); got != x.want {
				t.Errorf("%s, %q: %s", x.client, x.accept, got)
			}
			continue
		}
		resp, _ := get(t, server, "GET", "/feeds/things", "Accept", x.accept)
		got, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		if x.want == refused && resp.StatusCode != 406 || x.want != refused && (resp.StatusCode != 200 || got != x.want) {
			t.Errorf("%s, %q: %d %s", x.client, x.accept, resp.StatusCode, got)
		}
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 3)
	server := serve(t, openLog(t, pool))
	for _, x := range []struct{ path, accept, contentType, vary string }{
		{"/feeds/things", "", feed.TypeJSONFeed, "Accept, Accept-Encoding"},
		{"/feeds/things", "*/*", feed.TypeJSONFeed, "Accept, Accept-Encoding"},
		{"/feeds/things", "application/json", feed.TypeJSON, "Accept, Accept-Encoding"},
		{"/feeds/things", "application/atom+xml", feed.TypeAtom, "Accept, Accept-Encoding"},
		{"/feeds/things", "application/feed+json;q=0.1, application/*;q=0.5, text/html;q=0.2", feed.TypeJSON, "Accept, Accept-Encoding"},
		{"/feeds/things", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", feed.TypeHTML, "Accept, Accept-Encoding"},
		{"/feeds/things", "application/cloudevents-batch+json, application/json", feed.TypeCloudEvents, "Accept, Accept-Encoding"},
		{"/feeds/things.cloudevents", "application/json", feed.TypeCloudEvents, "Accept-Encoding"},
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
	for _, path := range []string{"/feeds/things.json", "/feeds/things.atom", "/feeds/things.html", "/feeds/things", "/feeds/things?after=0", "/feeds/things?after=0&limit=3", "/feeds/things?after=0&limit=2", "/feeds/things.cloudevents", "/feeds/things.cloudevents?limit=2"} {
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
	l := openLog(t, pool)
	server := serve(t, l)
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
		{"its tag as Apache compresses it", "/feeds/things", []string{"If-None-Match", strings.TrimSuffix(tag, `"`) + `-gzip"`}, 304},
		{"its tag as another proxy does", "/feeds/things", []string{"If-None-Match", "W/" + strings.TrimSuffix(tag, `"`) + `;zstd"`}, 304},
		{"the tag of another coding", "/feeds/things", []string{"If-None-Match", codedTag(tag, codingGzip)}, 200},
		{"the tag of this coding", "/feeds/things", []string{"If-None-Match", codedTag(tag, codingGzip), "Accept-Encoding", "gzip"}, 304},
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
	pgtest.Slow(t, "many runs")
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 110)
	middle := cursorAt(t, pool, 42).String()
	bodies := map[string]string{} // with the links of the header
	for i := range 20 {
		if i == 12 { // on to where an archive of 100 gets its successor
			appendAll(t, l, lives(295)[len(logged(t, pool)):])
		}
		server := serve(t, openLog(t, pool)) // with an empty cache: it has nothing that it could serve again under an old tag
		archives := []string{"?after=0&limit=100", "?after=" + cursorAt(t, pool, 100).String() + "&limit=100"}
		if i >= 12 {
			archives = append(archives, "?after="+cursorAt(t, pool, 200).String()+"&limit=100", "?before="+cursorAt(t, pool, 201).String())
		}
		for _, path := range []string{"/feeds/things", "/feeds/things.json", "/feeds/things.atom", "/feeds/things.html"} {
			for _, query := range append(archives, "", "?before="+middle, "?after=0", "?after=0&limit=10", "?after=0&limit=110", "?after=0&limit=58", "?after="+middle+"&limit=7", "?after=0&limit=10&history="+middle, "?snapshot=0&limit=9", "?snapshot="+middle+"&limit=8", "?snapshot="+middle+"&limit=8&from="+numbered(3).String()) {
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
	server := serve(t, openLog(t, pool))
	for path, want := range map[string]string{
		"/feeds/things":                   "max-age=0, stale-if-error=86400",
		"/feeds/things?before=%s":         "max-age=0, stale-if-error=86400",
		"/feeds/things?after=0&limit=10":  "public, max-age=31536000, immutable",
		"/feeds/things?after=0&limit=5":   "public, max-age=31536000, immutable",
		"/feeds/things?after=0&limit=20":  "no-cache", // full, but the page after it is not
		"/feeds/things?after=0":           "no-cache",
		"/feeds/things?after=%s&limit=10": "no-cache", // starts in the middle
		"/feeds/things?snapshot=0":        "no-cache",
		"/feeds/things?snapshot=%s":       "no-cache",
	} {
		path = strings.ReplaceAll(path, "%s", cursorAt(t, pool, 7).String())
		if resp, _ := get(t, server, "GET", path); resp.Header.Get("Cache-Control") != want {
			t.Errorf("%s: Cache-Control: %s, want %s", path, resp.Header.Get("Cache-Control"), want)
		}
	}
}

func TestColdWorkIsLimited(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 50)
	source := New(l, Options{Name: "Test", PublicURL: publicURL}, description)
	source.cold = web.NewLimiter(1, 3)
	server := httptest.NewServer(source)
	t.Cleanup(server.Close)
	page := func(n int) string { return fmt.Sprintf("/feeds/things.json?after=0&limit=%d", n) }
	tags := map[int]string{}
	for n := 1; n <= 3; n++ {
		resp, _ := get(t, server, "GET", page(n))
		tags[n] = resp.Header.Get("ETag")
	}
	for _, more := range []string{"after=0", "snapshot=0"} {
		var resp *http.Response
		for n := 4; n < 50 && (resp == nil || resp.StatusCode == 200); n++ { // a slow machine renders more than 3, as seconds pass
			resp, _ = get(t, server, "GET", fmt.Sprintf("/feeds/things.json?%s&limit=%d", more, n))
		}
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Content-Type") != feed.TypeProblem {
			t.Errorf("%s beyond the limit: %d %v", more, resp.StatusCode, resp.Header)
		}
	}
	for n, tag := range tags {
		resp, _ := get(t, server, "GET", page(n))
		notModified, _ := get(t, server, "GET", page(n), "If-None-Match", tag)
		if resp.StatusCode != 200 || notModified.StatusCode != 304 {
			t.Errorf("what is at hand: %d, %d", resp.StatusCode, notModified.StatusCode)
		}
	}
	if resp, _ := get(t, server, "GET", "/feeds/things.json?after="+head(t, l).Cursor().String()); resp.StatusCode != 200 {
		t.Errorf("the end of the feed: %d", resp.StatusCode)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	source := New(l, Options{Name: "Test", PublicURL: publicURL}, description)
	registry := prometheus.NewRegistry()
	registry.MustRegister(l, source)
	server := httptest.NewServer(source)
	t.Cleanup(server.Close)
	fill(t, l, 20)
	if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
		t.Fatal(err)
	}
	resp, body := get(t, server, "GET", "/feeds/things")
	get(t, server, "GET", "/feeds/things")
	get(t, server, "GET", "/feeds/things.atom", "If-None-Match", "*")
	for _, refused := range []string{"?after=x", "?after=3-000000000000", "s"} {
		get(t, server, "GET", "/feeds/things"+refused)
	}
	get(t, server, "GET", "/feeds/things", "If-None-Match", resp.Header.Get("ETag"))
	want := fmt.Sprintf(`
# HELP feed_cache_hits_total Documents that were sent from memory.
# TYPE feed_cache_hits_total counter
feed_cache_hits_total 1
# HELP feed_cache_misses_total Documents that were not in memory.
# TYPE feed_cache_misses_total counter
feed_cache_misses_total 1
# HELP feed_head_position Position of the last entry.
# TYPE feed_head_position gauge
feed_head_position{feed="things"} 21
# HELP feed_requests_total Requests for a feed. Feed and format are empty where a request was refused.
# TYPE feed_requests_total counter
feed_requests_total{feed="",format="",status="400"} 1
feed_requests_total{feed="",format="",status="404"} 1
feed_requests_total{feed="",format="",status="410"} 1
feed_requests_total{feed="things",format="atom",status="200"} 0
feed_requests_total{feed="things",format="atom",status="304"} 1
feed_requests_total{feed="things",format="json",status="200"} 2
feed_requests_total{feed="things",format="json",status="304"} 1
# HELP feed_sent_bytes_total Bytes of the bodies of feed documents, as compressed.
# TYPE feed_sent_bytes_total counter
feed_sent_bytes_total %d
# HELP feed_waiting_requests Requests that are held until something is appended.
# TYPE feed_waiting_requests gauge
feed_waiting_requests 0
`, 2*len(body))
	names := []string{"feed_cache_hits_total", "feed_cache_misses_total", "feed_head_position", "feed_requests_total", "feed_sent_bytes_total", "feed_waiting_requests"}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	var appends, group float64
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		switch f.GetName() {
		case "feed_append_seconds":
			appends = float64(f.Metric[0].Histogram.GetSampleCount())
		case "feed_group_changes":
			group = f.Metric[0].Histogram.GetSampleSum()
		}
	}
	if appends != 2 || group != 1 {
		t.Errorf("%v appends, %v changes in groups", appends, group)
	}
}

func TestHead(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 12)
	server := serve(t, openLog(t, pool))
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
