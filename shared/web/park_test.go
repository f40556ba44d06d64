package web

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
)

const parkTime = 25 * time.Second

// A lounge is a server, in memory, at which one can wait.
type lounge struct {
	*pipeListener
	open     *openConns
	event    Awaited
	happened chan struct{}
	ending   *Ending // of the requests for /wait?ends
	prepared atomic.Int64
	waiting  atomic.Int64 // requests parked
	resumed  atomic.Int64
	released atomic.Int64 // requests parked that were answered
	left     atomic.Int64 // clients that left
	logged   logBuffer
	stop     context.CancelFunc
	served   chan error
}

func openLounge(t *testing.T) *lounge {
	t.Helper()
	l := &lounge{
		pipeListener: &pipeListener{make(chan net.Conn), make(chan struct{})},
		open:         newOpenConns(1000),
		happened:     make(chan struct{}), served: make(chan error, 1), ending: NewEnding(),
	}
	l.event = Awaited{Happened: l.happened, Prepare: func() { l.prepared.Add(1) }}
	logger := slog.New(slog.NewTextHandler(&l.logged, nil))
	r := New(logger, CountRequests(NewMetrics()), AccessLog(logger))
	r.GET("/wait", HandleLong(l.wait))
	r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "now") })
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	go func() { l.served <- ServeListener(ctx, impatient{l.pipeListener, l.open}, r, logger) }()
	t.Cleanup(func() {
		stop()
		if err := <-l.served; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if parked, released := l.waiting.Load(), l.released.Load(); parked != released {
			t.Errorf("%d requests were parked, %d released", parked, released)
		}
	})
	return l
}

func (l *lounge) wait(c *gin.Context) error {
	if _, ends := c.GetQuery("ends"); ends {
		c.Request = l.ending.Bind(c.Request)
	}
	ctx := c.Request.Context()
	until, again := Resumed(ctx)
	if !again {
		until = time.Now().Add(parkTime)
	}
	if Park(c, &l.event, until, func() { l.released.Add(1) }) {
		l.waiting.Add(1)
		return nil
	}
	if again {
		l.resumed.Add(1)
	}
	select {
	case <-l.happened:
	case <-Stopping(ctx):
	case <-time.After(time.Until(until)):
		c.Status(http.StatusNotModified)
		return nil
	case <-ctx.Done():
		l.left.Add(1)
		return ctx.Err()
	}
	switch c.Query("then") {
	case "refuse":
		return Errorf(http.StatusGone, "It was here.")
	case "panic":
		panic("in the handler")
	case "break":
		c.Header("Content-Length", "100")
		c.String(http.StatusOK, "half")
		panic("in the middle")
	case "open":
		_, _ = c.Writer.WriteString("without a length")
	default:
		Send(c, http.StatusOK, "text/plain", []byte(strings.Repeat("x", 100_000)))
	}
	return nil
}

// A guest is a client.
type guest struct {
	net.Conn
	in *bufio.Reader
}

func (l *lounge) enter() *guest {
	conn := l.dial()
	return &guest{conn, bufio.NewReader(conn)}
}

func (g *guest) ask(t *testing.T, target string) {
	t.Helper()
	if _, err := io.WriteString(g, "GET "+target+" HTTP/1.1\r\nHost: cars\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

func (g *guest) hear(t *testing.T) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(g.in, nil)
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp, string(body)
}

func (g *guest) wantClosed(t *testing.T) {
	t.Helper()
	if _, err := g.in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Error("the connection goes on:", err)
	}
}

func TestPark(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T, *lounge){
		"until it happens, and the connection goes on": func(t *testing.T, l *lounge) {
			a, b := l.enter(), l.enter()
			a.ask(t, "/")
			plain, _ := a.hear(t)
			a.ask(t, "/wait")
			b.ask(t, "/wait")
			synctest.Wait()
			time.Sleep(10 * time.Second)
			if l.waiting.Load() != 2 || strings.Contains(l.logged.String(), "/wait") {
				t.Fatal("not parked:", l.waiting.Load(), l.logged.String())
			}
			close(l.happened)
			for _, g := range []*guest{a, b} {
				for range 3 {
					resp, body := g.hear(t)
					if resp.StatusCode != 200 || len(body) != 100_000 || resp.Close || resp.Header.Get("Content-Security-Policy") == "" {
						t.Fatal(resp.Status, len(body), resp.Header)
					}
					if _, err := http.ParseTime(resp.Header.Get("Date")); err != nil || plain.Header.Get("Date") == "" {
						t.Error(err)
					}
					g.ask(t, "/wait") // it has happened: parked, and at once called again
				}
				g.hear(t)
			}
			synctest.Wait()
			if n := strings.Count(l.logged.String(), "path=/wait status=200 bytes=100000 duration_ms="); n != 8 || !strings.Contains(l.logged.String(), "duration_ms=10000 ") {
				t.Error(n, "lines of 8:", l.logged.String())
			}
			if n := l.prepared.Load(); n != 1 {
				t.Error("prepared", n, "times")
			}
		},
		"until the time has come": func(t *testing.T, l *lounge) {
			g, start := l.enter(), time.Now()
			g.ask(t, "/wait")
			if resp, _ := g.hear(t); resp.StatusCode != 304 || resp.Close || time.Since(start) != parkTime {
				t.Error(resp.Status, resp.Header, time.Since(start))
			}
			g.ask(t, "/")
			if _, body := g.hear(t); body != "now" {
				t.Error(body)
			}
		},
		"until the time comes and it happens in the same moment, while some leave": func(t *testing.T, l *lounge) {
			guests := make([]*guest, 200)
			for i := range guests {
				guests[i] = l.enter()
				guests[i].ask(t, "/wait")
			}
			synctest.Wait()
			go func() {
				time.Sleep(parkTime)
				close(l.happened)
			}()
			var all sync.WaitGroup
			for i, g := range guests {
				all.Go(func() {
					if i%10 == 0 {
						time.Sleep(parkTime)
						_ = g.Close()
						return
					}
					if resp, body := g.hear(t); resp.StatusCode != 304 && len(body) != 100_000 || resp.Close {
						t.Error(resp.Status, len(body))
					}
					if _, err := io.WriteString(g, "GET / HTTP/1.1\r\nHost: cars\r\nConnection: close\r\n\r\n"); err != nil {
						t.Error("the connection does not go on:", err)
					}
					g.hear(t)
				})
			}
			all.Wait()
			l.stop()
			start := time.Now()
			err := <-l.served
			if l.served <- err; time.Since(start) > time.Second {
				t.Error("something was left in the lot", time.Since(start))
			}
		},
		"not for who has left": func(t *testing.T, l *lounge) {
			g := l.enter()
			g.ask(t, "/wait")
			synctest.Wait()
			_ = g.Close()
			synctest.Wait()
			if l.left.Load() != 1 || !strings.Contains(l.logged.String(), "broken_off=true") {
				t.Error(l.left.Load(), l.logged.String())
			}
		},
		"and then for the next request, not for ever": func(t *testing.T, l *lounge) {
			g := l.enter()
			g.ask(t, "/wait")
			synctest.Wait()
			close(l.happened)
			g.hear(t)
			start := time.Now()
			g.wantClosed(t)
			if took := time.Since(start); took != idleTimeout {
				t.Error("closed after", took)
			}
		},
		"while the next request is there already": func(t *testing.T, l *lounge) {
			for _, together := range []bool{true, false} {
				g := l.enter()
				if together {
					g.ask(t, "/wait HTTP/1.1\r\nHost: cars\r\n\r\nGET /")
				} else {
					g.ask(t, "/wait")
					synctest.Wait()
					go func() { _, _ = io.WriteString(g, "GET / HTTP/1.1\r\nHost: cars\r\n\r\n") }() // it is not read until the answer is out
				}
				start := time.Now()
				if resp, _ := g.hear(t); resp.StatusCode != 304 || time.Since(start) != parkTime {
					t.Error(resp.Status, time.Since(start))
				}
				if _, body := g.hear(t); body != "now" {
					t.Error(body)
				}
			}
		},
		"until the stop": func(t *testing.T, l *lounge) {
			idle := l.enter()
			idle.ask(t, "/wait")
			idle.hear(t)
			g := l.enter()
			g.ask(t, "/wait")
			synctest.Wait()
			start := time.Now()
			l.stop()
			if resp, body := g.hear(t); resp.StatusCode != 200 || len(body) != 100_000 || !resp.Close {
				t.Error(resp.Status, resp.Header)
			}
			g.wantClosed(t)
			idle.wantClosed(t)
			err := <-l.served
			if l.served <- err; time.Since(start) > time.Second {
				t.Error("stopped after", time.Since(start))
			}
		},
		"until its ending, which is not that of others": func(t *testing.T, l *lounge) {
			guests := []*guest{l.enter(), l.enter(), l.enter()}
			guests[0].ask(t, "/wait")
			guests[1].ask(t, "/wait?ends")
			guests[2].ask(t, "/wait?ends")
			synctest.Wait()
			start := time.Now()
			l.ending.End()
			for _, g := range guests[1:] {
				if resp, _ := g.hear(t); resp.StatusCode != 200 || resp.Close || time.Since(start) > 0 {
					t.Error(resp.Status, resp.Header, time.Since(start))
				}
				g.ask(t, "/wait?ends") // it has come already
				if g.hear(t); time.Since(start) > 0 {
					t.Error("waited for", time.Since(start))
				}
			}
			if n := l.prepared.Load(); n != 0 {
				t.Error("prepared", n, "times")
			}
			if resp, _ := guests[0].hear(t); resp.StatusCode != 304 || time.Since(start) != parkTime {
				t.Error(resp.Status, time.Since(start))
			}
		},
		"until the stop, with an ending that does not come": func(t *testing.T, l *lounge) {
			g := l.enter()
			g.ask(t, "/wait?ends")
			synctest.Wait()
			start := time.Now()
			l.stop()
			if resp, _ := g.hear(t); resp.StatusCode != 200 || !resp.Close || time.Since(start) > 0 {
				t.Error(resp.Status, resp.Header, time.Since(start))
			}
		},
		"until it happens, with endings and without": func(t *testing.T, l *lounge) {
			guests := []*guest{l.enter(), l.enter()}
			guests[0].ask(t, "/wait")
			guests[1].ask(t, "/wait?ends")
			synctest.Wait()
			close(l.happened)
			for _, g := range guests {
				if resp, _ := g.hear(t); resp.StatusCode != 200 {
					t.Error(resp.Status)
				}
			}
			if n := l.prepared.Load(); n != 1 {
				t.Error("prepared", n, "times")
			}
		},
		"until the stop, for one that does not read": func(t *testing.T, l *lounge) {
			g := l.enter()
			g.ask(t, "/wait")
			synctest.Wait()
			start := time.Now()
			l.stop()
			err := <-l.served
			if l.served <- err; time.Since(start) < grace || time.Since(start) > grace+time.Second || !strings.Contains(l.logged.String(), "requests cut off at the stop") {
				t.Error("stopped after", time.Since(start), l.logged.String())
			}
		},
		"for one that does not read, 30 s": func(t *testing.T, l *lounge) {
			g, other := l.enter(), l.enter()
			g.ask(t, "/wait")
			other.ask(t, "/wait")
			synctest.Wait()
			close(l.happened)
			start := time.Now()
			if _, body := other.hear(t); len(body) != 100_000 || time.Since(start) > 0 {
				t.Error("held up by another one:", time.Since(start))
			}
			time.Sleep(stallTimeout + time.Second)
			if _, err := io.Copy(io.Discard, g); err != nil {
				t.Error(err)
			}
		},
		"and is refused": func(t *testing.T, l *lounge) {
			g := l.enter()
			g.ask(t, "/wait?then=refuse")
			synctest.Wait()
			close(l.happened)
			resp, body := g.hear(t)
			wantProblem(t, resp, body, http.StatusGone)
			g.ask(t, "/wait?then=panic")
			resp, body = g.hear(t)
			wantProblem(t, resp, body, http.StatusInternalServerError)
			g.ask(t, "/")
			g.hear(t)
		},
		"and breaks off": func(t *testing.T, l *lounge) {
			g := l.enter()
			g.ask(t, "/wait?then=break")
			synctest.Wait()
			close(l.happened)
			if resp, err := http.ReadResponse(g.in, nil); err == nil { // the header may be out
				if body, err := io.ReadAll(resp.Body); err == nil {
					t.Errorf("half an answer looks complete: %s", body)
				}
			}
		},
		"and the length is not known": func(t *testing.T, l *lounge) {
			g := l.enter()
			g.ask(t, "/wait?then=open")
			synctest.Wait()
			close(l.happened)
			if resp, body := g.hear(t); !resp.Close || body != "without a length" {
				t.Error(resp.Header, body)
			}
		},
		"in the handler, where its answer is the last": func(t *testing.T, l *lounge) {
			g := l.enter()
			if _, err := io.WriteString(g, "GET /wait HTTP/1.1\r\nHost: cars\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if resp, _ := g.hear(t); resp.StatusCode != 304 || !resp.Close || l.waiting.Load() != 0 || l.resumed.Load() != 0 {
				t.Error(resp.Status, resp.Header, l.waiting.Load())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { test(t, openLounge(t)) })
		})
	}
}
