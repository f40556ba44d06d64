package webserver

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
)

// observed serves with an access log and metrics, as the sales app does.
func observed(t *testing.T, routes func(*gin.Engine)) (url string, logged *logBuffer) {
	t.Helper()
	logged = new(logBuffer)
	logger, registry := slog.New(slog.NewTextHandler(logged, nil)), NewMetrics()
	engine := New(logger, CountRequests(registry), AccessLog(logger))
	GET(engine, "/feeds/orders", Handle(func(c *gin.Context) error { // for the holders of a token, which name:secret stands for
		name, _, _ := strings.Cut(strings.TrimPrefix(c.GetHeader("Authorization"), "Bearer "), ":")
		if name == "" {
			return web.Errorf(http.StatusUnauthorized, "")
		}
		SetReader(c, name)
		c.String(http.StatusOK, "<%s>", web.Reader(c.Request))
		return nil
	}))
	Metrics(engine, registry)
	if routes != nil {
		routes(engine)
	}
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	return server.URL, logged
}

// eventually waits for what a server does after its client has the answer.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	const token = "warehouse:hunter2"
	url, logged := observed(t, func(r *gin.Engine) {
		r.GET("/breaks", func(c *gin.Context) {
			c.String(http.StatusOK, "half")
			c.Writer.Flush()
			panic(http.ErrAbortHandler)
		})
	})
	line := func(part string) (line string) {
		t.Helper()
		eventually(t, "no line with "+part, func() bool {
			for l := range strings.Lines(logged.String()) {
				if strings.Contains(l, part) && strings.HasSuffix(l, "\n") {
					line = l
				}
			}
			return line != ""
		})
		return line
	}
	ask(t, "GET", url+"/feeds/orders?after=0&limit=1", nil, "Authorization", "Bearer "+token, "User-Agent", "check/1 \xff"+strings.Repeat("x", 1000))
	got := line("after=0")
	for _, part := range []string{
		"level=INFO msg=request method=GET", ` path="/feeds/orders?after=0&limit=1"`, " status=200 bytes=11 duration_ms=", " client=127.0.0.1 reader=warehouse",
		` user_agent="check/1 ` + "\uFFFD" + strings.Repeat("x", 500),
	} {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in %s", part, got)
		}
	}
	if len(got) > 2*maxLogged || strings.Contains(got, "hunter2") || strings.Contains(got, "broken_off") {
		t.Error(got)
	}
	ask(t, "GET", url+"/feeds/orders?refused", nil)
	if got := line("?refused"); !strings.Contains(got, " status=401 ") || !strings.Contains(got, ` reader="" `) {
		t.Error(got)
	}
	ask(t, "GET", url+"/s/%64atafeed%5Fsignin_ABC?%7Ea=%31%2d0123456789%61b", nil)
	if got := line("/s/"); !strings.Contains(got, ` path="/s/datafeed_signin_ABC?~a=1-0123456789ab" `) {
		t.Error(got)
	}
	ask(t, "GET", url+"/nowhere?q=ann@zork.example", nil)
	if got := line("/nowhere"); !strings.Contains(got, ` path="/nowhere?q=..." status=404 `) {
		t.Error(got)
	}
	if resp, err := http.Get(url + "/breaks"); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if got := line("/breaks"); !strings.Contains(got, " broken_off=true") {
		t.Error(got)
	}
	if n := strings.Count(logged.String(), "msg=request"); n != 5 {
		t.Errorf("%d lines for 4 requests: %s", n, logged.String())
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	const token = "dashboard:hunter2"
	url, _ := observed(t, func(r *gin.Engine) {
		r.POST("/breaks", func(*gin.Context) { panic(http.ErrAbortHandler) })
		r.GET("/models/:model", func(c *gin.Context) { c.Status(http.StatusNotModified) })
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			ask(t, "GET", url+"/feeds/orders", nil, "Authorization", "Bearer "+token)
			ask(t, "GET", url+"/feeds/orders", nil)
			ask(t, "GET", url+"/nowhere/at/all", nil)
		})
	}
	all.Wait()
	ask(t, "GET", url+"/models/ohm", nil)
	ask(t, "GET", url+"/models/volta", nil)
	if resp, err := http.Post(url+"/breaks", "text/plain", nil); err == nil {
		t.Error(resp.Status)
		_ = resp.Body.Close()
	}
	var text string
	for _, want := range []string{
		`http_requests_total{reader="dashboard",route="/feeds/orders",status="2xx"} 8`,
		`http_requests_total{reader="",route="/feeds/orders",status="4xx"} 8`,
		`http_requests_total{reader="",route="",status="4xx"} 8`,
		`http_requests_total{reader="",route="/models/:model",status="3xx"} 2`,
		`http_requests_total{reader="",route="/breaks",status="aborted"} 1`,
		"go_goroutines ", "process_open_fds ",
	} {
		eventually(t, "no "+want, func() bool {
			_, text = ask(t, "GET", url+"/metrics", nil)
			return strings.Contains(text, "\n"+want)
		})
	}
	if strings.Contains(text, "hunter2") {
		t.Error("a token shows")
	}
	resp, _ := ask(t, "GET", url+"/metrics", nil)
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain; version=0.0.4") || resp.Header.Get("Cache-Control") != "no-store" {
		t.Error(resp.Header)
	}
}

// What runs on every poll allocates nothing: counting requests, an access log of a level that is off, security headers.
func TestObserversAllocate(t *testing.T) {
	c, _ := gin.CreateTestContext(httptest.NewRecorder())
	c.Request = httptest.NewRequest("GET", "/", nil)
	for name, h := range map[string]gin.HandlerFunc{
		"requests": CountRequests(NewMetrics()), "access log": AccessLog(slog.New(slog.DiscardHandler)), "header": secure,
	} {
		if n := testing.AllocsPerRun(100, func() { h(c) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// What somebody types into a form may name a person, and stays out of the log.
func TestAccessLogOfQueries(t *testing.T) {
	t.Parallel()
	const id, cursor = "018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11", "12-0123456789ab"
	for query, want := range map[string]string{
		"":                                       "",
		"?":                                      "?",
		"?after=" + cursor + "&limit=100&wait=0": "?after=" + cursor + "&limit=100&wait=0",
		"?id=" + id + "&q=018f4e7c-5d&q=018F4E7C":             "?id=" + id + "&q=018f4e7c-5d&q=018F4E7C",
		"?before=2026-11-23T08:00:00.000001Z," + id:           "?before=2026-11-23T08:00:00.000001Z," + id,
		"?at=2026-11-23T08%3A00%3A00%2B01%3A00&on=2026-11-23": "?at=2026-11-23T08%3A00%3A00%2B01%3A00&on=2026-11-23",
		"?saved&=1&n=-3":              "?saved&=1&n=-3",
		"?q=ann@zork.example&after=0": "?q=...&after=0",
		"?q=%61da":                    "?q=...",
		"?q=Ada+Lovelace":             "?q=...",
		"?q=dada-ada":                 "?q=...",
		"?q=+4989123456&tel=0891234567&t=4989123456789": "?q=...&tel=...&t=...",
		"?id=" + id + "-ada":                            "?id=...",
		"?q=" + id + "&to=" + id + "=ada":               "?q=" + id + "&to=...",
		"?ann@zork.example&x%40y=1&q":                   "?...&...=1&q",
		"?q=1;ada&q=1?ada&q=%zz":                        "?q=...&q=...&q=...",
		"?" + strings.Repeat("x", 65) + "=1&q=\xff":     "?...=1&q=...",
	} {
		if got := withoutText("/path" + query); got != "/path"+want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}
