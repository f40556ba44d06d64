package webserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/web"
)

func TestProblem(t *testing.T) {
	t.Parallel()
	full := &web.Problem{
		Type: "/problems/invalid-order", Title: "Invalid order", Status: http.StatusUnprocessableEntity, Detail: "2 fields are wrong.",
		Errors: []web.FieldError{{Field: "lines[0].model", Detail: "<unknown>"}, {Field: "customer_id", Detail: "not a UUID"}},
		Header: http.Header{"Link": {`</orders>; rel="help"`}},
	}
	url, logged := newServer(t, func(r *gin.Engine) {
		r.POST("/orders", Handle(func(c *gin.Context) error {
			c.Header("Content-Encoding", "gzip")
			c.Header("Location", "/orders/1")
			return fmt.Errorf("place order: %w", full)
		}), func(*gin.Context) { panic("a handler after a refusal ran") })
	})

	t.Run("as JSON", func(t *testing.T) {
		t.Parallel()
		resp, body := ask(t, "POST", url+"/orders", nil)
		want := `{"type":"/problems/invalid-order","title":"Invalid order","status":422,"detail":"2 fields are wrong.",` +
			`"errors":[{"field":"lines[0].model","detail":"<unknown>"},{"field":"customer_id","detail":"not a UUID"}]}` + "\n"
		if body != want || resp.StatusCode != 422 || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
		}
		if resp.Header.Get("Link") == "" || resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Location") != "" {
			t.Errorf("header %v", resp.Header)
		}
	})
	t.Run("as a page", func(t *testing.T) {
		t.Parallel()
		resp, body := ask(t, "POST", url+"/orders", nil, "Accept", "text/html")
		if resp.StatusCode != 422 || resp.Header.Get("Content-Type") != web.HTMLType || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Link") == "" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		for _, part := range []string{"<h1>Invalid order</h1>", "2 fields are wrong.", "<code>lines[0].model</code> &lt;unknown&gt;"} {
			if !strings.Contains(body, part) {
				t.Errorf("no %q in %s", part, body)
			}
		}
	})
	t.Run("as an error", func(t *testing.T) {
		t.Parallel()
		if got := full.Error(); got != "422 Invalid order: 2 fields are wrong.; lines[0].model: <unknown>; customer_id: not a UUID" {
			t.Error(got)
		}
	})
	t.Cleanup(func() {
		if logged.String() != "" {
			t.Error("a refusal is logged:", logged.String())
		}
	})
}

func TestPlainProblemHasNoEmptyMembers(t *testing.T) {
	t.Parallel()
	url, _ := newServer(t, func(r *gin.Engine) {
		r.GET("/", Handle(func(*gin.Context) error { return web.Errorf(http.StatusGone, "") }))
	})
	_, body := ask(t, "GET", url, nil)
	var members map[string]any
	if err := json.Unmarshal([]byte(body), &members); err != nil || len(members) != 2 {
		t.Error(err, body)
	}
}

func TestOtherErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err    error
		status int
	}{
		"something broken":                 {errors.New("column secret does not exist"), 500},
		"a row that is too large":          {&pgconn.PgError{Code: "54000", File: "nbtutils.c", Message: "secret"}, 500},
		"no transaction ids":               {&pgconn.PgError{Code: "54000", File: "varsup.c", Message: "secret"}, 503},
		"a broken constraint":              {&pgconn.PgError{Code: "23505", Message: "secret"}, 500},
		"a statement that took too long":   {&pgconn.PgError{Code: "57014", Message: "secret"}, 503},
		"a database that is read-only":     {&pgconn.PgError{Code: "25006", Message: "secret"}, 503},
		"a table that is being restored":   {&pgconn.PgError{Code: "42P01", Message: "secret"}, 503},
		"a type that was restored":         {&pgconn.PgError{Code: "XX000", Message: "secret"}, 503},
		"nobody listens":                   {connectTo(t, refusing(t)), 503},
		"the server hangs up":              {connectTo(t, hangingUp(t)), 503},
		"the server stops":                 {&pgconn.PgError{Code: "57P01", Message: "secret"}, 503},
		"the server starts":                {&pgconn.PgError{Code: "57P03", Message: "secret"}, 503},
		"too many connections":             {&pgconn.PgError{Code: "53300", Message: "secret"}, 503},
		"the connection broke":             {&pgconn.PgError{Code: "08006", Message: "secret"}, 503},
		"a reset while reading":            {resetWhileReading(t), 503},
		"a connection closed before":       {pgconn.ErrConnClosed, 503},
		"a deadline of our own":            {context.DeadlineExceeded, 503},
		"a stop while the client is there": {context.Canceled, 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, logged := newServer(t, func(r *gin.Engine) {
				r.GET("/orders", Handle(func(*gin.Context) error { return fmt.Errorf("read orders: %w", tc.err) }))
			})
			resp, body := ask(t, "GET", url+"/orders", nil)
			wantProblem(t, resp, body, tc.status)
			if strings.Contains(body, "secret") || strings.Contains(body, "read orders") {
				t.Error("the inside shows:", body)
			}
			if retry := resp.Header.Get("Retry-After"); (retry == "5") != (tc.status == 503) {
				t.Errorf("Retry-After %q", retry)
			}
			if log := logged.String(); !strings.Contains(log, "read orders") || !strings.Contains(log, "method=GET path=/orders") {
				t.Error("log:", log)
			}
		})
	}
}

// A deadline of the router around a handler is not the client's leaving: the client is answered.
func TestDeadlineOfTheRouter(t *testing.T) {
	t.Parallel()
	url, _ := newServer(t, func(r *gin.Engine) {
		r.GET("/orders", func(c *gin.Context) {
			ctx, cancel := context.WithDeadline(c.Request.Context(), time.Now())
			defer cancel()
			c.Request = c.Request.WithContext(ctx)
			fail(c, fmt.Errorf("read orders: %w", ctx.Err()))
		})
	})
	resp, body := ask(t, "GET", url+"/orders", nil)
	wantProblem(t, resp, body, 503)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// refusing is an address that nobody listens on.
func refusing(t *testing.T) string {
	t.Helper()
	ln := listen(t)
	_ = ln.Close()
	return ln.Addr().String()
}

// hangingUp is the address of a server that closes each connection.
func hangingUp(t *testing.T) string {
	t.Helper()
	ln := listen(t)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	return ln.Addr().String()
}

// connectTo returns the error of pgx for an address that is no PostgreSQL server.
func connectTo(t *testing.T, addr string) error {
	t.Helper()
	_, err := pgconn.Connect(t.Context(), "postgres://sales@"+addr+"/sales?sslmode=disable")
	if err == nil {
		t.Fatal("connected")
	}
	return err
}

// resetWhileReading returns the error of a connection that the other side resets.
func resetWhileReading(t *testing.T) error {
	t.Helper()
	ln := listen(t)
	go func() {
		if conn, err := ln.Accept(); err == nil {
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// The pages of problems look like the other pages of the service, wherever a request is refused. Only addresses of our
// own become links in them.
func TestLookOfProblems(t *testing.T) {
	t.Parallel()
	logged := new(logBuffer)
	logger := slog.New(slog.NewTextHandler(logged, nil))
	r := New(logger, Look(func(c *gin.Context) web.Page {
		return web.Page{Service: "Cars", Nav: []web.Link{{Text: "Start " + c.Request.Method, URL: "/start"}}}
	}))
	const evil = "https://evil.example/login"
	r.GET("/links", Handle(func(c *gin.Context) error {
		return &web.Problem{
			Status: 422, Detail: "Go to https://cars.example/<x>, or log in at /login. Not " + evil + " or //evil.example or \"/quoted\" or and/or.",
			Links: []string{"https://cars.example/<x>"}, Errors: []web.FieldError{{Field: "model", Detail: "is not on sale; GET /models lists the models; not " + evil}},
		}
	}))
	r.GET("/panics", func(*gin.Context) { panic("x") })
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	for _, x := range []struct {
		method, path string
		status       int
		header       []string
	}{
		{"GET", "/links", 422, nil}, {"GET", "/panics", 500, nil}, {"GET", "/none", 404, nil}, {"POST", "/links", 405, nil}, {"GET", "/links?x=%00", 400, nil},
		{"POST", "/links", 403, []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}},
	} {
		resp, body := ask(t, x.method, server.URL+x.path, nil, append(x.header, "Accept", "text/html")...)
		if resp.StatusCode != x.status || !strings.Contains(body, `<a href="/start">Start `+x.method+`</a>`) || !strings.Contains(body, "Edison <strong>Cars</strong>") {
			t.Errorf("%s %s: %d %s", x.method, x.path, resp.StatusCode, body)
		}
	}
	_, body := ask(t, "GET", server.URL+"/links", nil, "Accept", "text/html")
	for _, part := range []string{
		`Go to <a href="https://cars.example/&lt;x&gt;">https://cars.example/&lt;x&gt;</a>, or log in at <a href="/login">/login</a>. Not `, `GET <a href="/models">/models</a> lists`, `&#34;/quoted&#34;`,
	} {
		if !strings.Contains(body, part) {
			t.Errorf("no %s in %s", part, body)
		}
	}
	if strings.Contains(body, `href="`+evil) || strings.Contains(body, `href="//`) || strings.Contains(body, `href="/quoted`) {
		t.Error("a stranger's address is a link:", body)
	}
	if _, body := ask(t, "GET", server.URL+"/links", nil); strings.Contains(body, "<a") || strings.Contains(body, "Links") {
		t.Error(body)
	}
}
