package webserver

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
)

// specimen renders testdata/specimen.html, which shows every part of the style, inside the whole layout.
func specimen(t *testing.T) (*http.Response, string) {
	t.Helper()
	page := web.Template(os.DirFS("testdata"), "specimen.html")
	now := time.Now()
	url, _ := newServer(t, func(r *gin.Engine) {
		GET(r, "/", func(c *gin.Context) {
			Render(c, http.StatusOK, page, web.Page{
				Service: "Sales", Title: "Specimen", Follow: 3, Refresh: 5,
				Nav:        []web.Link{{Text: "Models", URL: "/", Current: true}, {Text: "Feed", URL: "/feeds/orders"}},
				Alternates: []web.Link{{Text: "Orders as Atom", URL: "/feeds/orders.atom", Type: "application/atom+xml"}},
				Freshness: []web.Freshness{
					{Feed: "orders", State: "fresh", AsOf: now.Add(-3 * time.Second), Behind: 1204, Note: "Without 2 entries that could not be applied.", URL: "/subscriptions/orders", NextAt: now.Add(time.Hour), Source: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Wait: "0s", SetPageSize: "100"},
					{Feed: "builds", State: "stale", AsOf: now.Add(-7 * time.Minute), Note: "Sales cannot be reached.", Failing: "polls fail since", FailingSince: now.Add(-6 * time.Minute), Retry: now.Add(time.Hour), URL: "/subscriptions/builds", Next: "by another process", Schedule: "@every 5s", Wait: "25s"},
					{Feed: "customers", State: "stale", URL: "/subscriptions/customers", Schedule: "@hourly", Wait: "0s"},
				},
				Data: map[string]any{
					"Models": []string{"Volta", "Ampere"}, "Revenue": int64(123456789), "Now": now,
					"Entity": json.RawMessage(`{"id":"019ab0c2","lines":[{"quantity":1}]}`),
				},
			})
		})
	})
	return ask(t, "GET", url, nil)
}

func TestLayout(t *testing.T) {
	t.Parallel()
	resp, body := specimen(t)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != web.HTMLType || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	body = regexp.MustCompile(`(<time) datetime="[^"]*"( title="[^"]*UTC")?`).ReplaceAllString(body, "$1")
	for _, part := range []string{
		"<title>Specimen · Edison Sales</title>",
		`<link rel="alternate" type="application/atom&#43;xml" title="Orders as Atom" href="/feeds/orders.atom">`,
		`<a href="/" aria-current="page">Models</a>`,
		`<a href="/feeds/orders">Feed</a>`,
		`<details class="copy fresh" name="copies">`, `<strong>orders: fresh</strong>, <time data-ago>3 s ago</time>, 1,204 behind<span class="wide">, next poll <time data-ago>in 59 min</time></span>`,
		`<dd>1,204 entries</dd>`, `<dd><time data-ago>in 59 min</time></dd>`, `<dd>by another process</dd>`, `<dt>Source</dt><dd><a href="http://localhost:8080/feeds/orders">`, `<dd><code>@every 5s</code></dd>`, `<dd>as of <time>`,
		`<form class="filters" method="get" action="/subscriptions/orders/schedule">`, `name="schedule" value="@every 5s"`,
		`name="wait" value="" placeholder="25s"`, `name="page_size" value="100"`,
		`<strong>orders: fresh</strong>, as of <time>`, `UTC</time>. Without 2 entries`,
		`<strong>builds: stale</strong>, <time data-ago>7 min ago</time>, polls fail since <time data-absolute>`, `<strong>customers: stale</strong>, no copy yet`,
		`<strong role="status">builds: stale, polls fail since <time data-absolute>`, `This is the copy as of <time`, `Sales cannot be reached. Next try <time data-ago>in 59 min</time>.`,
		`<strong role="status">customers: no copy yet.</strong>`,
		`<noscript><meta http-equiv="refresh" content="5"></noscript>`, `<p class="follow" id="follow" data-seconds="3" hidden>`,
		"€1,234,567.89", "9,999,999.99\u00a0SEK", `<rect width="33.3%"`, "&#34;lines&#34;: [\n",
	} {
		if !strings.Contains(body, part) {
			t.Errorf("no %q in the page", part)
		}
	}
	// The content security policy blocks both.
	if inline := regexp.MustCompile(`(?i)\sstyle=|<style|<script>|\son\w+=`).FindString(body); inline != "" {
		t.Errorf("inline code or style: %q", inline)
	}
	for _, asset := range regexp.MustCompile(`/assets/[^"?]+`).FindAllString(body, -1) {
		if !slices.Contains(web.AssetPaths(), asset) {
			t.Errorf("no asset %s", asset)
		}
	}
}

// The specimen is of use only while it is complete.
func TestSpecimenShowsTheWholeStyle(t *testing.T) {
	t.Parallel()
	used := classesUsed(t, "testdata/specimen.html", "../web/layout.html", "../web/problem.html")
	sheet, err := os.ReadFile("../web/assets/style.css")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile(`(?s)/\*.*?\*/|\{[^{}]*\}`).ReplaceAllString(string(sheet), " ")
	var styled []string
	for _, m := range regexp.MustCompile(`\.([a-z][\w-]*)`).FindAllStringSubmatch(rules, -1) {
		styled = append(styled, m[1])
	}
	for _, class := range styled {
		if !slices.Contains(used, class) {
			t.Errorf("no page shows .%s", class)
		}
	}
	for _, class := range used {
		if !slices.Contains(styled, class) && class != "paused" { // paused looks as a badge does
			t.Errorf("the style lacks .%s", class)
		}
	}
}

func classesUsed(t *testing.T, files ...string) []string {
	t.Helper()
	var classes []string
	for _, file := range files {
		text, err := os.ReadFile(filepath.FromSlash(file))
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`\{\{.*?\}\}`).ReplaceAll(text, nil)
		for _, m := range regexp.MustCompile(`class="([^"]*)"`).FindAllStringSubmatch(string(text), -1) {
			classes = append(classes, strings.Fields(m[1])...)
		}
	}
	return classes
}

func TestRender(t *testing.T) {
	t.Parallel()
	page := web.Template(fstest.MapFS{"page.html": {Data: []byte(
		`{{define "nav"}}<nav>own</nav>{{end}}{{define "main"}}<p>{{.Data.Name}}</p>{{end}}`)}}, "page.html")
	url, logged := newServer(t, func(r *gin.Engine) {
		r.GET("/set", func(c *gin.Context) {
			c.Header("Cache-Control", "max-age=60")
			Render(c, http.StatusAccepted, page, web.Page{Data: map[string]any{"Name": "<b>"}})
		})
		r.GET("/broken", func(c *gin.Context) { Render(c, http.StatusOK, page, web.Page{Title: "Broken", Data: 1}) })
	})
	resp, body := ask(t, "GET", url+"/set", nil)
	if resp.StatusCode != http.StatusAccepted || resp.Header.Get("Cache-Control") != "max-age=60" || !strings.Contains(body, "<p>&lt;b&gt;</p>") || !strings.Contains(body, "<nav>own</nav>") {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	resp, body = ask(t, "GET", url+"/broken", nil)
	wantProblem(t, resp, body, http.StatusInternalServerError)
	if !strings.Contains(logged.String(), "Broken") {
		t.Error("log:", logged.String())
	}
}

func TestTemplateRefusesAPageWithoutMain(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	web.Template(fstest.MapFS{"page.html": {Data: []byte("text")}}, "page.html")
}

func TestPageOfAnOperator(t *testing.T) {
	t.Parallel()
	page := web.Template(fstest.MapFS{"page.html": {Data: []byte(`{{define "main"}}here{{end}}`)}}, "page.html")
	url, _ := newServer(t, func(r *gin.Engine) {
		session := func(c *gin.Context) {
			c.Header("ETag", `"of-all"`)
			if name, ok := c.GetQuery("as"); ok {
				SetSession(c, func() string { return name })
			}
			c.Header("Cache-Control", c.Query("cache"))
		}
		GET(r, "/", session, func(c *gin.Context) { Render(c, http.StatusOK, page, web.Page{Service: "Sales", Title: "Page"}) })
		GET(r, "/gone", session, Handle(func(*gin.Context) error { return web.Errorf(http.StatusGone, "It was here.") }))
	})
	for _, x := range []struct{ name, target, shown, cache, etag string }{
		{"without a session", "/", "", "no-cache", `"of-all"`},
		{"a session that has ended", "/?as=", "", "no-cache", `"of-all"`},
		{"a session", "/?as=ada", "ada", "no-store", ""},
		{"a page that was public", "/?as=ada&cache=max-age%3D60", "ada", "no-store", ""},
		{"a page that is not kept", "/?as=ada&cache=no-store", "ada", "no-store", ""},
		{"a problem", "/gone?as=ada", "ada", "no-store", ""},
		{"a problem without a session", "/gone", "", "no-store", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			resp, body := ask(t, "GET", url+x.target, nil, "Accept", "text/html")
			form := `<form class="logout" method="post" action="/logout"><span>ada</span><button class="quiet">Log out</button></form>`
			if strings.Contains(body, form) != (x.shown != "") || strings.Contains(body, "/logout") != (x.shown != "") {
				t.Error(body)
			}
			if resp.Header.Get("Cache-Control") != x.cache || resp.Header.Get("ETag") != x.etag {
				t.Error(resp.Header)
			}
		})
	}
}
