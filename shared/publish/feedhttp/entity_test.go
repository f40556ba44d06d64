package feedhttp

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

const browser = "text/html,application/xhtml+xml,*/*;q=0.8"

func TestEntity(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	id, path := numbered(2), "/feeds/things/"+numbered(2).String()
	first, second := thing(id, 1), thing(id, 2)
	first.Payload = []byte(`{"name":"<a>","tags":["x"],"gone":null}`)
	second.Payload = []byte(`{"name":"<b>","tags":["x",{"y":1}]}`)
	appendAll(t, l, []publish.Entry{thing(numbered(1), 1), first, thing(numbered(3), 1), second, thing(id, 3)})

	t.Run("as JSON, newest version first", func(t *testing.T) {
		resp, body := get(t, server, "GET", path)
		var list []struct {
			Position, Version int64
			Cursor            feed.Cursor
			Deleted           bool
			Entity            struct{ Name string }
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != 3 || resp.Header.Get("Cache-Control") != "no-cache" || resp.Header.Get("Vary") != "Accept" {
			t.Fatal(body, err, resp.Header)
		}
		for i, position := range []int64{5, 4, 2} {
			v := list[i]
			if v.Position != position || v.Version != int64(3-i) || v.Cursor != cursorAt(t, pool, position) || v.Deleted || v.Entity.Name == "" {
				t.Errorf("%+v at place %d", v, i)
			}
		}
		if !strings.Contains(body, `"entity":`+string(second.Payload)) {
			t.Errorf("version 2 is not as it was written: %s", body)
		}
	})
	t.Run("for a browser, with what changed", func(t *testing.T) {
		_, page := get(t, server, "GET", path, "Accept", browser)
		page = html.UnescapeString(regexp.MustCompile(`</?(del|ins|code|span|dd|dt|div)[^>]*>`).ReplaceAllString(page, ""))
		for _, part := range []string{
			`name"<a>" → "<b>"`, `tags[1].yabsent → 1`, `gonenull → absent`, `/feeds/things/jump?to=4">entry 4</a>, changed`, `jump?to=2">entry 2</a>, new`,
			`href="http://source.example/things/` + id.String(), `rel="alternate" type="application/atom+xml"`,
		} {
			if !strings.Contains(page, part) {
				t.Errorf("no %q in %s", part, page)
			}
		}
		if strings.Count(page, `tags[0]`) != 1 || strings.Count(page, "<h1") != 1 {
			t.Error("a field that is the same in version 2, or not one h1:", page)
		}
	})
	t.Run("the entries lead to it", func(t *testing.T) {
		if _, page := get(t, server, "GET", "/feeds/things.html"); strings.Count(page, `href="`+publicURL+path+`"`) != 3 {
			t.Error(page)
		}
	})
	t.Run("again, until there is another version or an erasure", func(t *testing.T) {
		tags := map[string]string{}
		for _, change := range []func(){
			func() {},
			func() {
				exec(t, pool, `update feed_entry set payload = null, salt = null where feed = $1 and entity_id = $2 and version = 2`, feedName, id)
			},
			func() { appendAll(t, l, []publish.Entry{{ID: id, Version: 4, Updated: thing(id, 4).Updated}}) },
		} {
			change()
			for _, accept := range []string{browser, "application/json"} {
				resp, body := get(t, server, "GET", path, "Accept", accept)
				tag := resp.Header.Get("ETag")
				if of, seen := tags[tag]; seen || tag == "" {
					t.Errorf("ETag %s of %s was that of %s", tag, body, of)
				}
				tags[tag] = body
				if resp, body := get(t, server, "GET", path, "Accept", accept, "If-None-Match", tag); resp.StatusCode != 304 || body != "" {
					t.Errorf("%d %s", resp.StatusCode, body)
				}
			}
		}
		_, page := get(t, server, "GET", path, "Accept", browser)
		if !strings.Contains(page, ">erased<") || !strings.Contains(page, ">deleted<") || strings.Contains(page, "<del>") {
			t.Error(page)
		}
		_, body := get(t, server, "GET", path)
		if !strings.Contains(body, `"deleted":true,"entity":null`) || !strings.Contains(body, `"deleted":true,"erased":true,"entity":null`) {
			t.Error(body)
		}
	})
	t.Run("the newest versions only, where there are too many", func(t *testing.T) {
		var many []publish.Entry
		for v := range int64(maxVersions + 5) {
			many = append(many, thing(numbered(9), v+1))
		}
		appendAll(t, l, many)
		_, body := get(t, server, "GET", "/feeds/things/"+numbered(9).String())
		var list []struct{ Version int64 }
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != maxVersions || list[0].Version != maxVersions+5 {
			t.Errorf("%d versions (%v)", len(list), err)
		}
		if _, page := get(t, server, "GET", "/feeds/things/"+numbered(9).String(), "Accept", browser); !strings.Contains(page, "the newest 1,000 of 1,005") {
			t.Error("the page does not say that there are more")
		}
	})
	t.Run("no more of large and deep ones than one can take", func(t *testing.T) {
		var many []publish.Entry
		for v := range int64(40) {
			e := thing(numbered(10), v+1)
			value := fmt.Sprintf(`{"%s":%s}`, strings.Repeat("n", 1000), strings.Repeat(strconv.Itoa(int(v%10))+",", 100_000)+"0")
			value = strings.Replace(value, ":", ":[", 1)
			value = strings.TrimSuffix(value, "}") + "]}"
			e.Payload = []byte(strings.Repeat(`{"a":`, 90) + value + strings.Repeat("}", 90))
			many = append(many, e)
		}
		appendAll(t, l, many)
		path := "/feeds/things/" + numbered(10).String()
		_, body := get(t, server, "GET", path)
		var list []struct{ Version int64 }
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) < 2 || len(list) > 30 || list[0].Version != 40 || len(body) > 8<<20 {
			t.Errorf("%d versions in %d bytes (%v)", len(list), len(body), err)
		}
		_, page := get(t, server, "GET", path, "Accept", browser)
		if len(page) > 64<<20 || !strings.Contains(page, "Only the beginnings") || !strings.Contains(page, fmt.Sprintf("the newest %d of 40", len(list))) {
			t.Errorf("a page of %d bytes", len(page))
		}
	})
	for _, path := range []string{
		"/feeds/things/" + uuid.NewString(), "/feeds/things/1", "/feeds/things/" + strings.ToUpper(id.String()), "/feeds/things/" + strings.ReplaceAll(id.String(), "-", ""),
		"/feeds/nothing/" + id.String(), "/feeds/things.json/" + id.String(),
	} {
		if resp, body := get(t, server, "GET", path); resp.StatusCode != 404 || resp.Header.Get("Content-Type") != feed.TypeProblem {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

// positions returns those of the entries on a page, as listed.
func positions(page string) (list []int) {
	for _, m := range regexp.MustCompile(`id="entry-(\d+)"`).FindAllStringSubmatch(page, -1) {
		n, _ := strconv.Atoi(m[1])
		list = append(list, n)
	}
	return list
}

// follow returns the page behind the link of a relation, "" if there is none. A redirect is followed once.
func follow(t *testing.T, server *httptest.Server, page, rel string) (path, next string) {
	t.Helper()
	m := regexp.MustCompile(`<a rel="` + rel + `" href="([^"]+)"`).FindStringSubmatch(page)
	if m == nil {
		return "", ""
	}
	path = strings.TrimPrefix(html.UnescapeString(m[1]), publicURL)
	resp, body := get(t, server, "GET", path, "Accept", browser)
	if resp.StatusCode == 307 {
		path = strings.TrimPrefix(resp.Header.Get("Location"), publicURL)
		resp, body = get(t, server, "GET", path, "Accept", browser)
	}
	if resp.StatusCode != 200 {
		t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
	return path, body
}

// The page of an entity has a bound, however its versions multiply in what it says of them.
func TestPageOfOddEntity(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	server := serve(t, l)
	var versions []publish.Entry
	for i := range int64(16) {
		v := thing(numbered(1), i+1)
		v.Payload = fmt.Appendf(nil, `{"%s%d":{"a":1,"b":2,"c":3,"d":4}}`, strings.Repeat("'", 200_000), i)
		versions = append(versions, v)
	}
	appendAll(t, l, versions)
	_, page := get(t, server, "GET", "/feeds/things/"+numbered(1).String(), "Accept", browser)
	if most := maxChanges + 16*6*200_000; len(page) > most || !strings.Contains(page, "Only the beginnings") || strings.Count(page, "Entity as JSON") != 16 {
		t.Errorf("a page of %d bytes, want at most %d", len(page), most)
	}
}

// Somebody who pages back and then towards the head again sees each entry, whatever is appended meanwhile.
func TestPagingTowardsTheHead(t *testing.T) {
	t.Parallel()
	for _, start := range []string{"/feeds/things", "/feeds/things.html"} {
		pool := database(t)
		l := openLog(t, pool)
		server := serve(t, l)
		fill(t, l, 430)
		_, page := get(t, server, "GET", start, "Accept", browser)
		for older := page; older != ""; _, older = follow(t, server, page, "next") {
			page = older
		}
		if got := positions(page); got[len(got)-1] != 1 {
			t.Fatalf("the oldest page has the entries %v", got)
		}
		head, seen, path := 430, positions(page)[0], ""
		for range 20 {
			var more []publish.Entry
			for i := range 70 {
				more = append(more, thing(numbered(10_000+head+i), 1))
			}
			if head < 700 {
				appendAll(t, l, more)
				head += 70
			}
			var newer string
			if path, newer = follow(t, server, page, "prev"); newer == "" {
				break
			}
			page = newer
			list := positions(page)
			if !slices.Contains(list, seen+1) || !slices.IsSortedFunc(list, func(a, b int) int { return b - a }) {
				t.Fatalf("after entry %d comes the page %s with %v", seen, path, list)
			}
			seen = list[0]
		}
		if seen != head || path != "" {
			t.Errorf("the way ends at entry %d of %d", seen, head)
		}
	}
	t.Run("from the middle of a page, of nothing, and of no cursor", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		fill(t, openLog(t, pool), 350)
		server := serve(t, openLog(t, pool))
		for path, want := range map[string]string{
			"/feeds/things/newer?before=" + cursorAt(t, pool, 42).String():     "/feeds/things?before=" + cursorAt(t, pool, 101).String(),
			"/feeds/things.html/newer?before=" + cursorAt(t, pool, 1).String(): "/feeds/things.html?before=" + cursorAt(t, pool, 101).String(),
			"/feeds/things/newer?before=" + cursorAt(t, pool, 101).String():    "/feeds/things?before=" + cursorAt(t, pool, 201).String(),
			"/feeds/things/newer?before=" + cursorAt(t, pool, 201).String():    "/feeds/things",
			"/feeds/things/newer?before=0":                                     "/feeds/things?before=" + cursorAt(t, pool, 101).String(),
			"/feeds/things/newer?before=9223372036854775807-9f3c1a2b7d04":      "/feeds/things",
			"/feeds/things/newer": "/feeds/things",
		} {
			if resp, _ := get(t, server, "GET", path); resp.StatusCode != 307 || resp.Header.Get("Location") != publicURL+want {
				t.Errorf("%s: %d to %s, want %s", path, resp.StatusCode, resp.Header.Get("Location"), want)
			}
		}
		for path, status := range map[string]int{"/feeds/things/newer?before=x": 400, "/feeds/nothing/newer": 404} {
			if resp, _ := get(t, server, "GET", path); resp.StatusCode != status {
				t.Errorf("%s: %d, want %d", path, resp.StatusCode, status)
			}
		}
	})
}

// The script of the page needs all this.
func TestNewestPageIsLive(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	for _, cursor := range []string{"0", "3-"} {
		_, page := get(t, server, "GET", "/feeds/things", "Accept", browser)
		for _, part := range []string{`data-live="/feeds/things?after=` + cursor, `id="where"`, `id="follow"`, `id="pages"`, `role="status"`, `id="arrivals" type="button" hidden`} {
			if !strings.Contains(page, part) {
				t.Errorf("no %s in %s", part, page)
			}
		}
		script := regexp.MustCompile(`<script src="([^"]+/live\.js[^"]*)" defer></script>`).FindStringSubmatch(page)
		if script == nil {
			t.Fatal("no script in ", page)
		}
		if resp, body := get(t, server, "GET", script[1]); resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/javascript") || !strings.Contains(body, "EventSource") {
			t.Errorf("%s: %d %v", script[1], resp.StatusCode, resp.Header)
		}
		if cursor == "0" {
			fill(t, l, 3)
		}
	}
	for _, query := range []string{"?after=0", "?before=" + cursorAt(t, pool, 3).String()} {
		if _, page := get(t, server, "GET", "/feeds/things"+query, "Accept", browser); strings.Contains(page, "data-live") || strings.Contains(page, "live.js") || strings.Contains(page, "follow") {
			t.Errorf("%s is live", query)
		}
	}
	for _, path := range []string{"/feeds", "/feeds/things", "/feeds/things?after=0", "/feeds/things/" + numbered(1).String()} {
		if _, page := get(t, server, "GET", path, "Accept", browser); strings.Count(page, `<link rel="alternate" type="application/atom&#43;xml"`) != 1 || strings.Count(page, "<h1>") != 1 {
			t.Errorf("%s has no feed to discover, or not one h1: %s", path, page)
		}
	}
}

// Where the service has pages of what it knows of an id, the ids on pages are links to them, but not those in documents.
func TestIDsAreLinks(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	id, buyer := numbered(1), numbered(7).String()
	appendAll(t, l, []publish.Entry{thing(id, 1)})
	d := description
	d.Show = func(e feed.Entry) (feed.Shown, error) {
		return feed.Shown{Title: "Thing", HTML: "<p>of <code>" + buyer + "</code>, for <code>4200</code></p>"}, nil
	}
	path := "/feeds/things/" + id.String()
	for _, trace := range []string{"", "/trace/"} {
		server := httptest.NewServer(New(l, Options{PublicURL: "http://source.example", Trace: trace}, d))
		t.Cleanup(server.Close)
		for _, x := range []struct{ path, accept, id string }{
			{"/feeds/things", browser, id.String()}, {"/feeds/things", browser, buyer}, {"/feeds/things?snapshot=0", browser, buyer}, {path, browser, id.String()},
			{"/feeds/things", feed.TypeJSON, buyer}, {"/feeds/things", feed.TypeAtom, buyer},
		} {
			_, body := get(t, server, "GET", x.path, "Accept", x.accept)
			linked := strings.Contains(body, `<a href="/trace/`+x.id+`"><code>`+x.id+`</code></a>`)
			if !strings.Contains(body, x.id) || linked != (trace != "" && x.accept == browser) || strings.Contains(body, "/trace/4200") {
				t.Errorf("%q: %s as %s: a link: %t\n%s", trace, x.path, x.accept, linked, body)
			}
		}
	}
}
