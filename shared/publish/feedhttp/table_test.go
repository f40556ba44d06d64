package feedhttp

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// serveAs is serve with other settings.
func serveAs(t testing.TB, l *publish.Log, options Options, feeds ...feed.Description) *httptest.Server {
	t.Helper()
	options.Name, options.PublicURL = "Test", publicURL
	server := httptest.NewServer(New(l, options, feeds...))
	t.Cleanup(server.Close)
	return server
}

// What requests for a feed of 230 entries get, by the settings of the source. "" is a header field that is absent.
func TestAnswers(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	appendAll(t, l, lives(230))
	at := func(position int64) string { return cursorAt(t, pool, position).String() }
	served := map[string]*httptest.Server{
		"public": serve(t, l), "tokens": serveAs(t, l, Options{Private: true}, description),
		"CDN":              serveAs(t, l, Options{MaxAge: 5 * time.Second}, description),
		"tokens and a CDN": serveAs(t, l, Options{Private: true, MaxAge: 5 * time.Second}, description),
	}
	const sealed, tail, newest = "/feeds/things?after=0&limit=100", "/feeds/things?after=0&limit=1000", "/feeds/things"
	const lost = "/feeds/things?after=200-000000000000"
	older := "/feeds/things?before=" + at(101)
	page, _ := get(t, served["public"], "GET", sealed)
	type fields map[string]string
	for _, x := range []struct {
		name, served, method, path string
		header                     []string
		status                     int
		want                       fields
		says                       string
	}{
		{"a sealed page", "public", "GET", sealed, nil, 200, fields{"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept, Accept-Encoding"}, `"sealed":true`},
		{"a sealed page for those with a token", "tokens", "GET", sealed, nil, 200, fields{"Cache-Control": "private, max-age=31536000, immutable"}, ""},
		{"a sealed page behind a CDN", "CDN", "GET", sealed, nil, 200, fields{"Cache-Control": "public, max-age=31536000, immutable"}, ""},
		{"the tail", "public", "GET", tail, nil, 200, fields{"Cache-Control": "no-cache", "Last-Modified": ""}, `"up_to_date":true`},
		{"the tail for those with a token", "tokens", "GET", tail, nil, 200, fields{"Cache-Control": "private, no-cache"}, ""},
		{"a snapshot", "public", "GET", "/feeds/things?snapshot=0", nil, 200, fields{"Cache-Control": "no-cache", "Vary": "Accept, Accept-Encoding", "Last-Modified": ""}, `"snapshot":"230-`},
		{"a snapshot for those with a token", "tokens", "GET", "/feeds/things?snapshot=0", nil, 200, fields{"Cache-Control": "private, no-cache"}, ""},
		{"a snapshot behind a CDN", "CDN", "GET", "/feeds/things?snapshot=0", nil, 200, fields{"Cache-Control": "no-cache"}, ""},
		{"a snapshot does not wait", "public", "GET", "/feeds/things?snapshot=0", []string{"Prefer", "wait=30"}, 200, fields{"Preference-Applied": ""}, ""},
		{"the header of a snapshot", "public", "HEAD", "/feeds/things?snapshot=0", nil, 200, fields{"Cache-Control": "no-cache"}, ""},
		{"the tail behind a CDN", "CDN", "GET", tail, nil, 200, fields{"Cache-Control": "max-age=5"}, ""},
		{"the tail for those with a token, which they may keep", "tokens and a CDN", "GET", tail, nil, 200, fields{"Cache-Control": "private, max-age=5"}, ""},
		{"the newest entries", "public", "GET", newest, nil, 200, fields{"Cache-Control": "max-age=0, stale-if-error=86400", "Last-Modified": ""}, ""},
		{"the newest entries for those with a token", "tokens", "GET", newest, nil, 200, fields{"Cache-Control": "private, max-age=0, stale-if-error=86400"}, ""},
		{"the newest entries behind a CDN", "CDN", "GET", newest, nil, 200, fields{"Cache-Control": "max-age=5, stale-if-error=86400"}, ""},
		{"older entries", "public", "GET", older, nil, 200, fields{"Cache-Control": "max-age=0, stale-if-error=86400", "Last-Modified": ""}, ""},
		{"not modified, as the document would be cached", "tokens", "GET", sealed, []string{"If-None-Match", "*"}, 304, fields{"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Accept, Accept-Encoding", "Last-Modified": page.Header.Get("Last-Modified"), "Content-Type": "", "Content-Length": "", "Content-Encoding": ""}, ""},
		{"the same asked by HEAD", "public", "HEAD", sealed, []string{"If-None-Match", page.Header.Get("ETag")}, 304, fields{"Etag": page.Header.Get("ETag"), "Content-Length": ""}, ""},
		{"a HEAD with another tag", "public", "HEAD", sealed, []string{"If-None-Match", `"a"`}, 200, fields{"Etag": page.Header.Get("ETag"), "Content-Length": page.Header.Get("Content-Length"), "Link": page.Header.Get("Link")}, ""},
		{"the tag of another coding", "public", "GET", sealed, []string{"If-None-Match", page.Header.Get("ETag"), "Accept-Encoding", "gzip"}, 200, fields{"Content-Encoding": "gzip"}, ""},
		{"the tag of another format", "public", "GET", strings.Replace(sealed, "?", ".atom?", 1), []string{"If-None-Match", page.Header.Get("ETag")}, 200, fields{"Vary": "Accept-Encoding"}, ""},
		{"the host that the client names", "public", "GET", newest, []string{"X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "gopher", "Forwarded", "host=evil.example"}, 200, nil, `"feed_url":"` + publicURL + `/feeds/things"`},
		{"a limit without end", "public", "GET", "/feeds/things?after=0&limit=1001", nil, 400, nil, "The parameter limit takes a whole number from 1 to 1000."},
		{"a cursor that is none", "public", "GET", "/feeds/things?after=1", nil, 400, nil, `The parameter after: \"1\" is not a cursor: it takes \"0\" or <position>-<12 lower-case hex digits>`},
		{"formats that it does not speak", "public", "GET", newest, []string{"Accept", "application/pdf, text/csv"}, 406, fields{"Vary": "Accept, Accept-Encoding", "Content-Type": feed.TypeProblem}, "application/feed+json"},
		{"a format for humans that it does not speak", "public", "GET", newest, []string{"Accept", "text/plain"}, 406, fields{"Cache-Control": "no-store"}, feed.TypeEvents},
		{"any format where a suffix fixes it", "public", "GET", "/feeds/things.atom", []string{"Accept", "image/png"}, 200, fields{"Content-Type": "application/atom+xml; charset=utf-8"}, "<feed"},
		{"a refusal, for a browser", "public", "GET", "/feeds/nothing", []string{"Accept", "text/html"}, 404, fields{"Content-Type": web.HTMLType, "Cache-Control": "no-store"}, "</html>"},
		{"PUT", "public", "PUT", newest, nil, 405, fields{"Allow": "GET, HEAD", "Content-Type": feed.TypeProblem, "Cache-Control": "no-store"}, ""},
		{"DELETE of the list", "public", "DELETE", "/feeds", nil, 405, fields{"Allow": "GET, HEAD"}, ""},
		{"a folder", "public", "GET", "/feeds/", nil, 404, fields{"Content-Type": feed.TypeProblem}, ""},
		{"the 410", "public", "GET", lost, nil, 410, fields{"Cache-Control": "no-store"}, "diverged"},
		{"the 410 behind a CDN", "CDN", "GET", lost, nil, 410, fields{"Cache-Control": "max-age=5", "Vary": "Accept, Accept-Encoding"}, "diverged"},
		{"the 410 behind a CDN for browsers", "CDN", "GET", lost, []string{"Accept", feed.TypeHTML}, 410, fields{"Cache-Control": "no-store"}, "diverged"},
		{"the 410 behind a CDN for those with a token", "tokens and a CDN", "GET", lost, nil, 410, fields{"Cache-Control": "no-store"}, "diverged"},
		{"the 410 behind a CDN to older entries", "CDN", "GET", "/feeds/things?before=200-000000000000", nil, 410, fields{"Cache-Control": "no-store"}, "diverged"},
		{"the 410 behind a CDN as CloudEvents", "CDN", "GET", "/feeds/things.cloudevents?lastEventId=200-000000000000", nil, 410, fields{"Cache-Control": "no-store"}, "diverged"},
		{"what the type of the 410 leads to", "public", "GET", "/problems/history-diverged", nil, 200, nil, `rel="start"`},
		{"what the type of the 413 leads to", "public", "GET", "/problems/page-too-large", nil, 200, nil, `limit=200`},
		{"the list of feeds", "public", "GET", "/feeds", nil, 200, fields{"Vary": "Accept", "Cache-Control": "no-cache", "Content-Type": "application/json; charset=utf-8"}, `"url":"` + publicURL + `/feeds/things"`},
		{"the list of feeds, for a browser", "public", "GET", "/feeds", []string{"Accept", "text/html"}, 200, fields{"Vary": "Accept", "Content-Type": web.HTMLType}, publicURL + "/feeds/things.atom"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			resp, body := get(t, served[x.served], x.method, x.path, x.header...)
			if resp.StatusCode != x.status || !strings.Contains(body, x.says) || (x.status == 304 || x.method == "HEAD") != (body == "") {
				t.Errorf("%d %s, want %d with %q", resp.StatusCode, body, x.status, x.says)
			}
			for name, want := range x.want {
				if got := strings.Join(resp.Header.Values(name), "|"); got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			}
			if x.status >= 400 && resp.Header.Get("Etag")+resp.Header.Get("Last-Modified") != "" {
				t.Errorf("a refusal with validators: %v", resp.Header)
			}
			if strings.Contains(body+fmt.Sprint(resp.Header), "evil.example") {
				t.Errorf("a link is built from the request: %v %s", resp.Header, body)
			}
		})
	}
}

func TestListOfFeeds(t *testing.T) {
	t.Parallel()
	pool := database(t)
	exec(t, pool, `select feed_create('others')`)
	l := openLog(t, pool)
	others := description
	others.Name, others.Title, others.Text = "others", "Others", "What is none of the things."
	server := serveAs(t, l, Options{}, description, others)
	fill(t, l, 7)
	_, body := get(t, server, "GET", "/feeds")
	want := fmt.Sprintf(`[{"feed":"things","title":"Things","description":"Everything that is a thing.","url":"%[1]s/feeds/things","head":"%[2]s","entries":7,"retention":null,"schema":null,"views":[]},`+
		`{"feed":"others","title":"Others","description":"What is none of the things.","url":"%[1]s/feeds/others","head":"0","entries":0,"retention":null,"schema":null,"views":[]}]`, publicURL, cursorAt(t, pool, 7))
	if strings.TrimSpace(body) != want {
		t.Errorf("%s, want %s", body, want)
	}
}

// Where a reader of a lost history starts again, by how it asked.
func TestStartAgain(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	again := func(path string, grow int) string {
		t.Helper()
		if grow > 0 {
			appendAll(t, l, lives(230)[len(logged(t, pool)):grow])
		}
		resp, body := get(t, server, "GET", path)
		var problem struct {
			Type, Detail string
			Status       int
		}
		if err := json.Unmarshal([]byte(body), &problem); err != nil || resp.StatusCode != 410 || problem.Status != 410 || problem.Type != publicURL+"/problems/history-diverged" {
			t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
		}
		link := regexp.MustCompile(`^<` + publicURL + `(.*)>; rel="start"$`).FindStringSubmatch(resp.Header.Get("Link"))
		if link == nil || !strings.Contains(problem.Detail, link[1]) {
			t.Fatalf("%s: Link: %s, while the body says %s", path, resp.Header.Get("Link"), body)
		}
		if resp, _ := get(t, server, "GET", link[1]); resp.StatusCode != 200 {
			t.Errorf("%s: %d", link[1], resp.StatusCode)
		}
		return link[1]
	}
	const lost = "9000-9f3c1a2b7d04"
	at := func(position int64) string { return "&history=" + cursorAt(t, pool, position).String() }
	for _, x := range []struct {
		path string
		grow int
		want func() string
	}{
		{"/feeds/things?after=" + lost, 0, func() string { return "/feeds/things?after=0&limit=100" }}, // the feed is empty
		{"/feeds/things?after=" + lost + "&limit=7", 6, func() string { return "/feeds/things?after=0&limit=7" }},
		{"/feeds/things?after=" + lost + "&limit=7", 20, func() string { return "/feeds/things?after=0&limit=7" + at(14) }},
		{"/feeds/things.atom?after=" + lost, 230, func() string { return "/feeds/things.atom?after=0&limit=100" + at(200) }},
		{"/feeds/things.html?before=" + lost, 0, func() string { return "/feeds/things.html?after=0&limit=100" + at(200) }},
		{"/feeds/things?after=" + lost + "&limit=1000", 0, func() string { return "/feeds/things?after=0&limit=1000" }},
		{"/feeds/things?snapshot=" + lost + "&limit=100", 0, func() string { return "/feeds/things?after=0&limit=100" + at(200) }},
		{"/feeds/things?after=" + lost + "&history=" + lost, 0, func() string { return "/feeds/things?after=0&limit=100" + at(200) }},
	} {
		if got := again(x.path, x.grow); got != x.want() {
			t.Errorf("%s starts again at %s, want %s", x.path, got, x.want())
		}
	}
}

// A walk with a history sees the entries that one without it sees; only its links differ.
func TestHistorySelectsNothing(t *testing.T) {
	t.Parallel()
	pool := database(t)
	appendAll(t, openLog(t, pool), lives(230))
	server := serve(t, openLog(t, pool))
	for _, suffix := range []string{".json", ".atom", ".html"} {
		for _, query := range []string{"?after=0&limit=100", "?after=" + cursorAt(t, pool, 200).String() + "&limit=100", "?before=" + cursorAt(t, pool, 101).String(), "?snapshot=0&limit=10"} {
			for _, history := range []string{cursorAt(t, pool, 200).String(), "12345-9f3c1a2b7d04"} {
				plain, want := get(t, server, "GET", "/feeds/things"+suffix+query)
				resp, body := get(t, server, "GET", "/feeds/things"+suffix+query+"&history="+history)
				for _, separator := range []string{"&", "?", "&amp;"} {
					body = strings.ReplaceAll(body, separator+"history="+history, "")
				}
				if resp.StatusCode != 200 || body != want || resp.Header.Get("Cache-Control") != plain.Header.Get("Cache-Control") || resp.Header.Get("ETag") == plain.Header.Get("ETag") {
					t.Errorf("%s%s with the history %s: %d\n%s\nwant\n%s", suffix, query, history, resp.StatusCode, body, want)
				}
			}
		}
	}
}

// A Show that takes no entry but real ones is in nobody's way.
func TestShowThatPanics(t *testing.T) {
	t.Parallel()
	d := description
	d.Show = func(e feed.Entry) (feed.Shown, error) {
		if string(e.Entity) == "{}" {
			panic("no thing")
		}
		return description.Show(e)
	}
	l := openLog(t, database(t))
	fill(t, l, 2)
	server := serveAs(t, l, Options{}, d)
	if resp, body := get(t, server, "GET", "/feeds/things"); resp.StatusCode != 200 || !strings.Contains(body, "Thing ") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// says shows every entry by the word, which a setting may be.
func says(word string) func(*feed.Description) {
	return func(d *feed.Description) {
		d.Show = func(feed.Entry) (feed.Shown, error) { return feed.Shown{Title: word}, nil }
	}
}

// What the words of a feed are made of changes the ETags of the documents that show them.
func TestETagChangesWithTheDescription(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 20)
	tags := map[string]bool{}
	for _, change := range []func(*feed.Description){
		func(*feed.Description) {},
		func(d *feed.Description) { d.Show = nil },
		says("Thing"), says("Car"),
		func(d *feed.Description) { d.Title = "Something" },
		func(d *feed.Description) { d.Text = "Something." },
		func(d *feed.Description) { d.ID = "tag:edison-cars.example,2027:things" },
	} {
		d := description
		change(&d)
		server := serveAs(t, l, Options{}, d)
		for _, path := range []string{"/feeds/things.json?after=0&limit=10", "/feeds/things.atom", "/feeds/things.html"} {
			resp, _ := get(t, server, "GET", path)
			if tag := resp.Header.Get("ETag"); tag == "" || tags[tag] {
				t.Errorf("%s as %+v has an ETag from before", path, d)
			} else {
				tags[tag] = true
			}
		}
	}
}

var linkValues = regexp.MustCompile(`<([^>]*)>; rel="([^"]*)"`)

// Each format shows the links that stand in its header.
func TestLinksInTheDocuments(t *testing.T) {
	t.Parallel()
	pool := database(t)
	appendAll(t, openLog(t, pool), lives(350))
	server := serve(t, openLog(t, pool))
	for _, query := range pageQueries(t, server, pool) {
		links := func(suffix string) (by map[string][]string, body string) {
			resp, body := get(t, server, "GET", "/feeds/things"+suffix+query)
			by = map[string][]string{}
			for _, link := range linkValues.FindAllStringSubmatch(resp.Header.Get("Link"), -1) {
				by[link[2]] = append(by[link[2]], link[1])
			}
			return by, body
		}
		header, body := links(".json")
		var doc struct {
			pageJSON
			Feed string `json:"feed_url"`
			Home string `json:"home_page_url"`
		}
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatal(err)
		}
		next := doc.Next
		if strings.HasPrefix(query, "?after=") && (doc.Datafeed.Sealed || !*doc.Datafeed.UpToDate) {
			next = doc.Datafeed.Next
		}
		if !slices.Equal(header["self"], []string{doc.Feed}) || next != strings.Join(header["next"], "") || doc.Home != publicURL {
			t.Errorf("%s: the document has %q, %q and %q, its header %v", query, doc.Feed, next, doc.Home, header)
		}
		header, body = links(".html")
		for _, rel := range []string{"alternate", "next"} {
			for _, href := range header[rel] {
				if !strings.Contains(body, `href="`+strings.ReplaceAll(href, "&", "&amp;")+`"`) {
					t.Errorf("%s: the page lacks the link %s to %s", query, rel, href)
				}
			}
		}
		if len(header["alternate"]) != 2 {
			t.Errorf("%s: alternates %v", query, header["alternate"])
		}
	}
}
