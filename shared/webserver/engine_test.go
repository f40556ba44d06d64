package webserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
)

// logBuffer keeps what is logged; the server writes to it from its own goroutines.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newServer(t *testing.T, routes func(r *gin.Engine)) (url string, logged *logBuffer) {
	t.Helper()
	logged = new(logBuffer)
	r := New(slog.New(slog.NewTextHandler(logged, nil)))
	routes(r)
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return server.URL, logged
}

// ask sends a request with header pairs and reads the whole answer.
func ask(t *testing.T, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() // closing a test server breaks off what the default one does
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func wantProblem(t *testing.T, resp *http.Response, body string, status int) web.Problem {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d: %s", resp.StatusCode, status, body)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	var p web.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if p.Status != status || p.Title != http.StatusText(status) {
		t.Errorf("problem %+v, want status %d", p, status)
	}
	return p
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	policy := http.Header{}
	web.Secure(policy)
	url, _ := newServer(t, func(r *gin.Engine) {
		GET(r, "/cars", func(c *gin.Context) { c.String(http.StatusOK, "cars") })
		r.POST("/orders", func(c *gin.Context) { c.Status(http.StatusCreated) })
	})

	t.Run("an unknown path is a 404", func(t *testing.T) {
		t.Parallel()
		resp, body := ask(t, "GET", url+"/nowhere", nil)
		wantProblem(t, resp, body, http.StatusNotFound)
	})
	t.Run("a trailing slash is another path, not a redirect", func(t *testing.T) {
		t.Parallel()
		resp, body := ask(t, "GET", url+"/cars/", nil)
		wantProblem(t, resp, body, http.StatusNotFound)
	})
	t.Run("a wrong method is a 405 that names the right ones", func(t *testing.T) {
		t.Parallel()
		resp, body := ask(t, "DELETE", url+"/cars", nil)
		wantProblem(t, resp, body, http.StatusMethodNotAllowed)
		if allow := resp.Header.Get("Allow"); allow != "GET, HEAD" {
			t.Errorf("Allow %q", allow)
		}
	})
	t.Run("a browser gets a page", func(t *testing.T) {
		t.Parallel()
		resp, body := ask(t, "GET", url+"/orders", nil, "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Content-Type") != web.HTMLType || resp.Header.Get("Allow") != "POST" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		if !strings.Contains(body, "<h1>Method Not Allowed</h1>") {
			t.Error(body)
		}
	})
	t.Run("security headers stand on refusals too", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"/cars", "/nowhere", "/orders", "/assets/style.css"} {
			resp, _ := ask(t, "GET", url+path, nil)
			for name, want := range map[string]string{
				"Content-Security-Policy": policy.Get("Content-Security-Policy"), "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: %s: %q", path, name, got)
				}
			}
		}
	})
}

func TestHead(t *testing.T) {
	t.Parallel()
	page := web.Template(os.DirFS("../web"), "problem.html")
	url, _ := newServer(t, func(r *gin.Engine) {
		GET(r, "/page", func(c *gin.Context) {
			long := web.Problem{Title: "long", Detail: strings.Repeat("x", 100_000)}
			Render(c, http.StatusOK, page, web.Page{Title: "long", Data: long})
		})
		GET(r, "/refused", Handle(func(*gin.Context) error { return web.Errorf(http.StatusConflict, "no") }))
	})
	for _, path := range []string{"/page", "/refused", "/nowhere", "/assets/style.css"} {
		get, body := ask(t, "GET", url+path, nil)
		head, none := ask(t, "HEAD", url+path, nil)
		if none != "" || len(body) == 0 {
			t.Errorf("%s: %d bytes for HEAD, %d for GET", path, len(none), len(body))
		}
		if head.StatusCode != get.StatusCode || head.ContentLength != int64(len(body)) || head.Header.Get("Content-Type") != get.Header.Get("Content-Type") {
			t.Errorf("%s: HEAD %d %v, GET %d %v", path, head.StatusCode, head.Header, get.StatusCode, get.Header)
		}
	}
}

func TestPanics(t *testing.T) {
	t.Parallel()
	url, logged := newServer(t, func(r *gin.Engine) {
		r.GET("/before", func(c *gin.Context) {
			c.Header("ETag", `"stale"`)
			c.Header("Cache-Control", "public")
			panic("secret of the house")
		})
		r.GET("/small", func(c *gin.Context) {
			c.String(http.StatusOK, "half")
			panic("after a small part")
		})
		r.GET("/flushed", func(c *gin.Context) {
			c.String(http.StatusOK, "half")
			c.Writer.Flush()
			panic("after a flushed part")
		})
		r.GET("/error", Handle(func(c *gin.Context) error {
			c.String(http.StatusOK, "half")
			c.Writer.Flush()
			return errors.New("an error after a part")
		}))
	})

	t.Run("before the answer is a 500 that keeps the secret", func(t *testing.T) {
		resp, body := ask(t, "GET", url+"/before", nil)
		wantProblem(t, resp, body, http.StatusInternalServerError)
		if strings.Contains(body, "secret") || resp.Header.Get("ETag") != "" {
			t.Errorf("%v %s", resp.Header, body)
		}
		if log := logged.String(); strings.Contains(log, "secret of the house") || !strings.Contains(log, "engine_test.go") || !strings.Contains(log, "path=/before") {
			t.Error("the log lacks the stack or the path, or quotes the panic:", log)
		}
	})
	for _, path := range []string{"/small", "/flushed", "/error"} {
		t.Run("in the middle breaks the connection "+path, func(t *testing.T) {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", url+path, nil)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return // not even the header arrived
			}
			defer func() { _ = resp.Body.Close() }()
			if body, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("%q came as a complete %d answer", body, resp.StatusCode)
			}
		})
	}
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}), make(chan struct{})
	var logged logBuffer
	r := New(slog.New(slog.NewTextHandler(&logged, nil)))
	r.GET("/wait", HandleLong(func(c *gin.Context) error {
		close(entered)
		<-c.Request.Context().Done()
		return c.Request.Context().Err()
	}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer close(left)
		r.ServeHTTP(w, req)
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	req, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/wait", nil)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_ = resp.Body.Close()
		t.Fatal("an answer came")
	}
	<-left
	if logged.String() != "" {
		t.Error("a client that left is logged:", logged.String())
	}
}

func TestCrossOriginPosts(t *testing.T) {
	t.Parallel()
	url, _ := newServer(t, func(r *gin.Engine) {
		r.POST("/orders", func(c *gin.Context) { c.Status(http.StatusCreated) })
		r.GET("/orders", func(c *gin.Context) { c.Status(http.StatusOK) })
	})
	for _, tc := range []struct {
		name, method string
		header       []string
		status       int
	}{
		{"a post of another site", "POST", []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{"a post of another port", "POST", []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		{"a post of an old browser on another origin", "POST", []string{"Origin", "https://elsewhere.example"}, http.StatusForbidden},
		{"a post of our own page", "POST", []string{"Sec-Fetch-Site", "same-origin", "Origin", url}, http.StatusCreated},
		{"a post of a program", "POST", nil, http.StatusCreated},
		{"a link on another site", "GET", []string{"Sec-Fetch-Site", "cross-site"}, http.StatusOK},
	} {
		resp, body := ask(t, tc.method, url+"/orders", strings.NewReader("a=b"), append(tc.header, "Content-Type", "application/x-www-form-urlencoded")...)
		if resp.StatusCode != tc.status {
			t.Errorf("%s: %d, want %d", tc.name, resp.StatusCode, tc.status)
		}
		if tc.status == http.StatusForbidden {
			wantProblem(t, resp, body, tc.status)
		}
	}
}

func TestPostFrom(t *testing.T) {
	t.Parallel()
	const other = "https://customers.example:8443"
	url, _ := newServer(t, func(r *gin.Engine) {
		done := func(c *gin.Context) { c.Status(http.StatusNoContent) }
		PostFrom(r, "/handover", other, done)
		PostFrom(r.Group("/group"), "/handover", other, done)
		r.POST("/orders", done)
	})
	for _, tc := range []struct {
		path, site, origin string
		status             int
	}{
		{"/handover", "cross-site", other, http.StatusNoContent},
		{"/handover", "same-site", other, http.StatusNoContent},
		{"/handover", "", other, http.StatusNoContent},
		{"/group/handover", "cross-site", other, http.StatusNoContent},
		{"/handover", "same-origin", url, http.StatusNoContent},
		{"/handover", "", "", http.StatusNoContent},
		{"/handover", "cross-site", "https://elsewhere.example", http.StatusForbidden},
		{"/handover", "cross-site", "https://customers.example", http.StatusForbidden},
		{"/handover", "cross-site", "http://customers.example:8443", http.StatusForbidden},
		{"/handover", "cross-site", other + ".elsewhere.example", http.StatusForbidden},
		{"/handover", "cross-site", "null", http.StatusForbidden},
		{"/handover", "cross-site", "", http.StatusForbidden},
		{"/handover", "", "https://elsewhere.example", http.StatusForbidden},
		{"/orders", "cross-site", other, http.StatusForbidden},
		{"/orders", "", other, http.StatusForbidden},
		{"/nothing", "cross-site", other, http.StatusForbidden},
	} {
		var header []string
		for name, value := range map[string]string{"Sec-Fetch-Site": tc.site, "Origin": tc.origin} {
			if value != "" {
				header = append(header, name, value)
			}
		}
		if resp, body := ask(t, "POST", url+tc.path, strings.NewReader("a=b"), header...); resp.StatusCode != tc.status {
			t.Errorf("%+v: %d %s", tc, resp.StatusCode, body)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	t.Parallel()
	url, _ := newServer(t, func(r *gin.Engine) {
		r.POST("/", Handle(func(c *gin.Context) error {
			var text string
			if err := json.NewDecoder(c.Request.Body).Decode(&text); err != nil {
				return err
			}
			c.Status(http.StatusNoContent)
			return nil
		}))
	})
	fits, tooLarge := `"`+strings.Repeat("x", maxBody-2)+`"`, `"`+strings.Repeat("x", maxBody-1)+`"`
	for _, tc := range []struct {
		name   string
		body   io.Reader
		status int
	}{
		{"1 MiB of known length", strings.NewReader(fits), http.StatusNoContent},
		{"1 MiB in chunks", io.MultiReader(strings.NewReader(fits)), http.StatusNoContent},
		{"more, of known length", strings.NewReader(tooLarge), http.StatusRequestEntityTooLarge},
		{"more, in chunks", io.MultiReader(strings.NewReader(tooLarge)), http.StatusRequestEntityTooLarge},
	} {
		resp, body := ask(t, "POST", url, tc.body)
		if resp.StatusCode != tc.status {
			t.Errorf("%s: %d, want %d", tc.name, resp.StatusCode, tc.status)
		}
		if tc.status == http.StatusRequestEntityTooLarge {
			wantProblem(t, resp, body, tc.status)
		}
	}
}

func TestAssets(t *testing.T) {
	t.Parallel()
	url, _ := newServer(t, func(*gin.Engine) {})
	resp, body := ask(t, "GET", url+"/assets/style.css", nil)
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, ":root") || resp.Header.Get("Content-Type") != "text/css; charset=utf-8" || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	again, none := ask(t, "GET", url+"/assets/style.css", nil, "If-None-Match", resp.Header.Get("ETag"))
	if again.StatusCode != http.StatusNotModified || none != "" {
		t.Errorf("with its ETag: %d", again.StatusCode)
	}
	versioned := "/assets/style.css?v=" + strings.Trim(resp.Header.Get("ETag"), `"`)
	if resp, _ := ask(t, "GET", url+versioned, nil); resp.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
		t.Errorf("%s: %v", versioned, resp.Header)
	}
	if resp, _ := ask(t, "GET", url+"/assets/favicon.svg", nil); resp.Header.Get("Content-Type") != "image/svg+xml" {
		t.Errorf("favicon: %v", resp.Header)
	}
}

// Bodies of which one byte is missing: each client may have the server hold so many large ones, and all together, and
// small ones in any number.
func TestLargeBodiesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := serveInMemory(t, plain, func(r *gin.Engine) {
			if err := (Proxies{"0.0.0.0/0"}).Trust(r); err != nil {
				t.Fatal(err)
			}
			r.TrustedPlatform = "X-Test-Client"
			r.POST("/", Handle(func(c *gin.Context) error {
				c.Status(http.StatusNoContent)
				return nil
			}))
		})
		// begin sends all but the last byte.
		begin := func(client string, size int, chunked bool) net.Conn {
			conn := ln.dial()
			header := fmt.Sprintf("Content-Length: %d\r\n\r\n", size)
			if chunked {
				header = fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", size)
			}
			go func() { // until it is answered
				_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: cars\r\nX-Test-Client: "+client+"\r\n"+header+strings.Repeat("x", size-1))
			}()
			synctest.Wait()
			return conn
		}
		status := func(conn net.Conn) int {
			t.Helper()
			defer conn.Close()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Error(err)
				return 0
			}
			if resp.StatusCode != http.StatusNoContent && resp.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return resp.StatusCode
		}
		end := func(conn net.Conn, last string) int {
			t.Helper()
			if _, err := io.WriteString(conn, last); err != nil {
				t.Error(err)
			}
			return status(conn)
		}
		var held []net.Conn
		for i := range largeBodies.All {
			held = append(held, begin(fmt.Sprint("192.0.2.", i/largeBodies.Client), 100<<10, false))
		}
		for _, chunked := range []bool{false, true} {
			if got := status(begin("192.0.2.0", 100<<10, chunked)); got != http.StatusTooManyRequests {
				t.Errorf("one more of a client, in chunks %v: %d", chunked, got)
			}
			if got := status(begin("192.0.2.99", 100<<10, chunked)); got != http.StatusServiceUnavailable {
				t.Errorf("one more in all, in chunks %v: %d", chunked, got)
			}
		}
		if got := end(begin("192.0.2.0", smallBody, false), "x"); got != http.StatusNoContent {
			t.Errorf("a small one: %d", got)
		}
		if got := end(held[0], "x"); got != http.StatusNoContent {
			t.Errorf("one of those that are held: %d", got)
		}
		if got := end(begin("192.0.2.0", 100<<10, true), "x\r\n0\r\n\r\n"); got != http.StatusNoContent {
			t.Errorf("one more after that: %d", got)
		}
		held[1].Close() // a client that leaves
		synctest.Wait()
		if got := end(begin("192.0.2.0", 100<<10, false), "x"); got != http.StatusNoContent {
			t.Errorf("one more after a client has left: %d", got)
		}
		for _, conn := range held[2:] {
			conn.Close()
		}
	})
}

func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	l := web.NewLimiter(1, 60)
	url, _ := newServer(t, func(r *gin.Engine) {
		r.GET("/cold", Handle(func(c *gin.Context) error {
			if err := l.Check(c.Request, 60); err != nil {
				return err
			}
			c.Status(http.StatusNoContent)
			return nil
		}))
	})
	if resp, _ := ask(t, "GET", url+"/cold", nil); resp.StatusCode != http.StatusNoContent {
		t.Error(resp.Status)
	}
	resp, body := ask(t, "GET", url+"/cold", nil)
	wantProblem(t, resp, body, http.StatusTooManyRequests)
	after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || after < 1 || after > 60 {
		t.Errorf("Retry-After %d, %v", after, err)
	}
}
