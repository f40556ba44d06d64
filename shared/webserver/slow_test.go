package webserver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A pipeListener hands out connections in memory, so that a test can let hours pass.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// serveInMemory serves as a process does, until the test ends.
func serveInMemory(t *testing.T, secure func(net.Listener) net.Listener, routes func(*gin.Engine)) *pipeListener {
	t.Helper()
	ln := &pipeListener{make(chan net.Conn), make(chan struct{})}
	logger := slog.New(slog.DiscardHandler)
	r := New(logger)
	routes(r)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- ServeListener(ctx, secure(impatient{ln, newOpenConns(1000)}), r, logger) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln
}

func plain(ln net.Listener) net.Listener { return ln }

// sendSlowly writes a byte of the endless text every pause until the other side hangs up, and gives how long that took.
func sendSlowly(conn net.Conn, text string, pause time.Duration) time.Duration {
	start := time.Now()
	for {
		for i := range len(text) {
			time.Sleep(pause)
			if _, err := conn.Write([]byte(text[i : i+1])); err != nil {
				return time.Since(start)
			}
		}
	}
}

func TestSlowHeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn := serveInMemory(t, plain, func(*gin.Engine) {}).dial()
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		if took := sendSlowly(conn, "GET / HTTP/1.1\r\nHost: cars\r\nX: "+strings.Repeat("x", 100), time.Second); took > 12*time.Second {
			t.Error("cut off after", took)
		}
		_ = conn.Close()
	})
}

func TestSlowBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := serveInMemory(t, plain, func(r *gin.Engine) {
			r.POST("/", Handle(func(c *gin.Context) error {
				_, err := io.ReadAll(c.Request.Body)
				return err
			}))
		})
		for name, header := range map[string]string{"of known length": "Content-Length: 1000", "in chunks": "Transfer-Encoding: chunked"} {
			conn, start := ln.dial(), time.Now()
			if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: cars\r\n"+header+"\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			text := strings.Repeat("x", 100)
			if strings.HasSuffix(header, "chunked") {
				text = "1\r\nx\r\n"
			}
			var sending sync.WaitGroup
			sending.Go(func() { sendSlowly(conn, text, time.Second) })
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(name, err)
			}
			body, err := io.ReadAll(resp.Body)
			if took := time.Since(start); err != nil || took < bodyTimeout || took > bodyTimeout+5*time.Second {
				t.Errorf("%s: %v after %v", name, err, took)
			}
			if p := wantProblem(t, resp, string(body), http.StatusRequestTimeout); p.Detail == "" || !resp.Close {
				t.Errorf("%s: %+v, %v", name, p, resp.Header)
			}
			_ = conn.Close()
			sending.Wait()
		}
	})
}

// An answer may take as long as it wants to, and the next request on the connection too.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := serveInMemory(t, plain, func(r *gin.Engine) {
			r.Any("/", HandleLong(func(c *gin.Context) error {
				if _, err := io.ReadAll(c.Request.Body); err != nil {
					return err
				}
				select {
				case <-c.Request.Context().Done():
					return errors.New("cut off")
				case <-time.After(time.Hour):
				}
				web.Send(c.Writer, c.Request, http.StatusOK, "text/plain", []byte("at last"))
				return nil
			}))
		})
		conn := ln.dial()
		answers := bufio.NewReader(conn)
		for _, request := range []string{"GET / HTTP/1.1\r\nHost: cars\r\n\r\n", "POST / HTTP/1.1\r\nHost: cars\r\nContent-Length: 3\r\n\r\nabc", "GET / HTTP/1.1\r\nHost: cars\r\n\r\n"} {
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "at last" {
				t.Errorf("%s: %q %v", request, body, err)
			}
			time.Sleep(time.Minute) // between two polls
		}
		_ = conn.Close()
	})
}

func TestSlowReader(t *testing.T) {
	t.Parallel()
	page := make([]byte, 1<<20)
	routes := func(left chan<- time.Duration) func(*gin.Engine) {
		return func(r *gin.Engine) {
			r.GET("/", func(c *gin.Context) {
				start := time.Now()
				web.Send(c.Writer, c.Request, http.StatusOK, "text/plain", page)
				left <- time.Since(start)
			})
			r.GET("/json", func(c *gin.Context) {
				start := time.Now()
				c.PureJSON(http.StatusOK, page)
				left <- time.Since(start)
			})
			r.GET("/parts", func(c *gin.Context) {
				start := time.Now()
				for part := range slices.Chunk(page, 1<<10) {
					if _, err := c.Writer.Write(part); err != nil {
						break
					}
				}
				left <- time.Since(start)
			})
			r.GET("/flushed", func(c *gin.Context) {
				start := time.Now()
				for part := range slices.Chunk(page, 1<<10) {
					_, _ = c.Writer.Write(part)
					if http.NewResponseController(c.Writer).Flush() != nil {
						break
					}
				}
				left <- time.Since(start)
			})
			r.GET("/stream", func(c *gin.Context) {
				for range 24 {
					time.Sleep(time.Hour)
					_, _ = c.Writer.WriteString("entry\n")
					c.Writer.Flush()
				}
			})
		}
	}
	request := func(t *testing.T, conn net.Conn, path string) *http.Response {
		t.Helper()
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: cars\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	t.Run("one that stops is cut off", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			left := make(chan time.Duration, 1)
			conn := serveInMemory(t, plain, routes(left)).dial()
			resp := request(t, conn, "/")
			if took := <-left; took > stallTimeout+time.Second {
				t.Error("held for", took)
			}
			if n, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Errorf("half a page of %d bytes looks complete", n)
			}
			_ = conn.Close()
		})
	})
	t.Run("one that goes on is not", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			left := make(chan time.Duration, 1)
			conn := serveInMemory(t, plain, routes(left)).dial()
			resp := request(t, conn, "/")
			var size int
			for part := make([]byte, 32<<10); ; time.Sleep(8 * time.Second) {
				n, err := io.ReadFull(resp.Body, part)
				if size += n; err != nil {
					break
				}
			}
			if took := <-left; size != len(page) || took < 2*stallTimeout {
				t.Errorf("%d bytes in %v", size, took)
			}
			_ = conn.Close()
		})
	})
	t.Run("one of a stream that has nothing to read is not", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			conn := serveInMemory(t, plain, routes(nil)).dial()
			body, err := io.ReadAll(request(t, conn, "/stream").Body)
			if err != nil || string(body) != strings.Repeat("entry\n", 24) {
				t.Errorf("%q %v", body, err)
			}
			_ = conn.Close()
		})
	})
	// overHTTP2 asks for the path.
	overHTTP2 := func(t *testing.T, left chan<- time.Duration, path string) (*http.Client, *http.Response) {
		t.Helper()
		certFile, keyFile, roots := certificate(t, t.TempDir(), "first")
		ln := serveInMemory(t, func(ln net.Listener) net.Listener { return listenTLS(t, ln, certFile, keyFile) }, routes(left))
		client := secureClient(roots, func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil })
		client.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
		resp, err := client.Get("https://localhost" + path)
		if err != nil || resp.ProtoMajor != 2 {
			t.Fatal(resp, err)
		}
		return client, resp
	}
	for _, path := range []string{"/", "/json", "/parts", "/flushed"} {
		t.Run("one that stops a stream of HTTP/2 is cut off: "+path, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				left := make(chan time.Duration, 1)
				client, resp := overHTTP2(t, left, path)
				if took := <-left; took > 2*stallTimeout {
					t.Error("held for", took)
				}
				if n, err := io.Copy(io.Discard, resp.Body); err == nil {
					t.Errorf("half a page of %d bytes looks complete", n)
				}
				_ = resp.Body.Close()
				client.CloseIdleConnections()
			})
		})
	}
	t.Run("one of a stream of HTTP/2 that has nothing to read is not", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			client, resp := overHTTP2(t, nil, "/stream")
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != strings.Repeat("entry\n", 24) {
				t.Errorf("%q %v", body, err)
			}
			_ = resp.Body.Close()
			client.CloseIdleConnections()
		})
	})
}

// A connection gives way if its client is waited for, whatever else goes on over it.
func TestSlowStreamsGiveWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var accepted atomic.Pointer[impatientConn]
		answered := make(chan error, 1)
		certFile, keyFile, roots := certificate(t, t.TempDir(), "first")
		ln := serveInMemory(t, func(ln net.Listener) net.Listener { return listenTLS(t, ln, certFile, keyFile) }, func(r *gin.Engine) {
			r.POST("/", func(c *gin.Context) {
				accepted.Store(connOf(c.Request))
				if _, err := io.ReadAll(c.Request.Body); err != nil {
					fail(c, err)
				}
			})
			r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, strings.Repeat("page", 1<<20)) })
		})
		client := secureClient(roots, func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil })
		client.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
		slow := func(want bool, when string) {
			t.Helper()
			conn := accepted.Load()
			time.Sleep(slowAfter / 2)
			synctest.Wait()
			if conn.waited(time.Now()) > slowAfter {
				t.Errorf("%s it is slow at once", when)
			}
			time.Sleep(slowAfter)
			synctest.Wait()
			if (conn.waited(time.Now()) > slowAfter) != want {
				t.Errorf("%s it is slow: %t", when, !want)
			}
		}
		send := func(body io.Reader) {
			resp, err := client.Post("https://localhost/", "text/plain", body)
			if err == nil {
				err = resp.Body.Close()
			}
			answered <- err
		}
		body, more := io.Pipe()
		go send(body)
		_, _ = more.Write([]byte("a part"))
		go send(strings.NewReader("all of another one"))
		if err := <-answered; err != nil {
			t.Error(err)
		}
		slow(true, "while a body is awaited")
		_ = more.Close()
		if err := <-answered; err != nil {
			t.Error(err)
		}
		slow(false, "afterwards")
		resp, err := client.Get("https://localhost/")
		if err != nil {
			t.Fatal(err)
		}
		slow(true, "while an answer is not taken")
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 4<<20 {
			t.Error(n, err)
		}
		slow(false, "after it is taken")
		conn := accepted.Load()
		conn.awaiting.Lock()
		defer conn.awaiting.Unlock()
		if len(conn.awaited) > 0 {
			t.Errorf("%v is awaited", conn.awaited)
		}
		client.CloseIdleConnections()
	})
}

// Clients that are waited for take the requests over HTTP/2 from no others.
func TestSlowRequestsOverHTTP2GiveWay(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many connections")
	synctest.Test(t, func(t *testing.T) {
		certFile, keyFile, roots := certificate(t, t.TempDir(), "first")
		ln := serveInMemory(t, func(ln net.Listener) net.Listener { return listenTLS(t, ln, certFile, keyFile) }, func(r *gin.Engine) {
			r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, strings.Repeat("page", 1<<20)) })
			r.GET("/livez", func(c *gin.Context) { c.Status(http.StatusNoContent) })
		})
		dial := func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil }
		greedy := secureClient(roots, dial)
		greedy.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
		var untaken []io.Closer
		for range 750 {
			resp, err := greedy.Get("https://localhost/")
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			untaken = append(untaken, resp.Body)
		}
		other := secureClient(roots, dial)
		ask := func() int {
			resp, err := other.Get("https://localhost/livez")
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			return resp.StatusCode
		}
		if got := ask(); got != http.StatusTooManyRequests { // in memory all are one client
			t.Errorf("at first: %d", got)
		}
		time.Sleep(2 * slowAfter)
		ask()
		synctest.Wait()
		if got := ask(); got != http.StatusNoContent {
			t.Errorf("then: %d", got)
		}
		for _, body := range untaken {
			_ = body.Close()
		}
		greedy.CloseIdleConnections()
		other.CloseIdleConnections()
	})
}

// A client has as many requests over HTTP/2 as it may have connections, over however few it sends them.
func TestRequestsOverHTTP2AreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		happened := make(chan struct{})
		certFile, keyFile, roots := certificate(t, t.TempDir(), "first")
		ln := serveInMemory(t, func(ln net.Listener) net.Listener { return listenTLS(t, ln, certFile, keyFile) }, func(r *gin.Engine) {
			r.GET("/", func(*gin.Context) {})
			r.GET("/wait", func(*gin.Context) { <-happened })
		})
		statuses := make(chan int, 1000)
		get := func(client *http.Client, path string) {
			resp, err := client.Get("https://localhost" + path)
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			statuses <- resp.StatusCode
		}
		other := func() *http.Client {
			client := secureClient(roots, func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil })
			get(client, "/")
			if got := <-statuses; got != http.StatusOK {
				t.Fatal(got)
			}
			t.Cleanup(client.CloseIdleConnections)
			return client
		}
		last := other()
		for range 3 {
			client := other()
			for range 250 { // as many as a connection takes
				go get(client, "/wait")
			}
			synctest.Wait()
		}
		if len(statuses) > 0 {
			t.Errorf("%d are answered", len(statuses))
		}
		get(last, "/")
		if got := <-statuses; got != http.StatusTooManyRequests {
			t.Errorf("one more: %d", got)
		}
		close(happened)
		for range 750 {
			if got := <-statuses; got != http.StatusOK {
				t.Fatal(got)
			}
		}
		get(last, "/")
		if got := <-statuses; got != http.StatusOK {
			t.Errorf("afterwards: %d", got)
		}
	})
}

func TestLargeHeader(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	ln, err := Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	r := New(logger)
	r.GET("/", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	served := make(chan error, 1)
	go func() { served <- ServeListener(ctx, ln, r, logger) }()
	for size, status := range map[int]int{60 << 10: http.StatusNoContent, 80 << 10: http.StatusRequestHeaderFieldsTooLarge} {
		if resp, _ := ask(t, "GET", "http://"+ln.Addr().String(), nil, "X-Large", strings.Repeat("x", size)); resp.StatusCode != status {
			t.Errorf("a header of %d bytes: %d, want %d", size, resp.StatusCode, status)
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
