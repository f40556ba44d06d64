package webserver

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
)

// A connFrom is a connection of a client at an address.
type connFrom struct {
	net.Conn
	ip     string
	closed bool
}

func (c *connFrom) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(c.ip), Port: 1} }
func (c *connFrom) Close() error         { c.closed = true; return nil }

func TestOpenConns(t *testing.T) {
	t.Parallel()
	o := newOpenConns(8) // 6 of a client
	admit := func(ip string, busy bool) (*impatientConn, bool) {
		c := &impatientConn{Conn: &connFrom{ip: ip}, open: o}
		c.busy.Store(busy)
		return c, o.admit(c)
	}
	closed := func(c *impatientConn) bool { return c.Conn.(*connFrom).closed }
	var of1 []*impatientConn
	for i := range 6 {
		c, ok := admit("192.0.2.1", i > 0)
		if !ok {
			t.Fatal(i, "of 6 connections of a client are admitted")
		}
		of1 = append(of1, c)
	}
	if _, ok := admit("192.0.2.1", true); !ok || !closed(of1[0]) {
		t.Error("the idle connection of the client does not give way to a new one of it")
	}
	if c, ok := admit("192.0.2.1", true); ok || closed(c) {
		t.Error("a client has more than its share, all of them busy")
	}
	first, ok1 := admit("2001:db8::1", false)
	second, ok2 := admit("2001:db8::2", true) // the same client
	if !ok1 || !ok2 || len(o.byClient) != 2 {
		t.Error("another client is not admitted")
	}
	of1[3].busy.Store(false)
	third, ok := admit("192.0.2.3", true)
	if !ok || !closed(of1[3]) || closed(first) {
		t.Error("it is not the one with the most connections that gives way")
	}
	if _, ok := admit("192.0.2.3", true); !ok || !closed(first) {
		t.Error("nobody gives way, though a connection of another client is idle")
	}
	if _, ok := admit("192.0.2.4", true); ok || o.count != 8 {
		t.Error("too many connections, all of them busy:", o.count)
	}
	long := time.Now().Add(-2 * slowAfter).UnixNano()
	of1[1].sending.Store(time.Now().UnixNano())
	if _, ok := admit("192.0.2.4", true); ok || closed(of1[1]) {
		t.Error("one gives way whose client has not been waited for for long")
	}
	second.await("a body", nil)
	second.awaited["a body"] = awaited{since: time.Unix(0, long)}
	of1[1].sending.Store(long)
	if _, ok := admit("192.0.2.4", true); !ok || !closed(of1[1]) || closed(second) {
		t.Error("the connection of a slow client that has the most does not give way")
	}
	if _, ok := admit("192.0.2.4", true); ok || closed(second) {
		t.Error("one gives way of a client that has no more connections than the new one's")
	}
	if _, ok := admit("192.0.2.5", true); !ok || !closed(second) {
		t.Error("the only connection of a slow client does not give way to one of a client that has none")
	}
	for _, c := range []*impatientConn{third, second, third} {
		_ = c.Close()
	}
	if o.count != 7 {
		t.Errorf("%d connections are left, want 7", o.count)
	}
}

// A client that has its share makes room for its next connection itself, by the one over which it is waited for the
// longest: behind a proxy, all clients are one.
func TestOpenConnsOfOneClient(t *testing.T) {
	t.Parallel()
	o := newOpenConns(8) // 6 of a client
	var conns []*impatientConn
	admit := func() bool {
		c := &impatientConn{Conn: &connFrom{ip: "192.0.2.1"}, open: o}
		c.busy.Store(true)
		conns = append(conns, c)
		return o.admit(c)
	}
	for range 6 {
		admit()
	}
	waited := func(i int, d time.Duration) {
		conns[i].await("a body", nil)
		conns[i].awaited["a body"] = awaited{since: time.Now().Add(-d)}
	}
	waited(1, slowAfter/2)
	if admit() {
		t.Error("a client has more than its share, none of them slow")
	}
	for i, d := range []time.Duration{0, slowAfter / 2, 3 * slowAfter, 4 * slowAfter, 2 * slowAfter} {
		waited(i, d)
	}
	for _, slowest := range []int{3, 2, 4} {
		if !admit() || !conns[slowest].Conn.(*connFrom).closed {
			t.Error("the slowest does not give way: ", slowest)
		}
	}
	if admit() || len(o.byClient[conns[0].client]) != 6 {
		t.Error("more than its share afterwards")
	}
}

// A connection is busy from a request to its answer, whether that waits or not.
func TestBusyConns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		open, happened := newOpenConns(1000), make(chan struct{})
		ln := &pipeListener{make(chan net.Conn), make(chan struct{})}
		logger := slog.New(slog.DiscardHandler)
		r := New(logger)
		r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "now") })
		r.GET("/wait", func(c *gin.Context) {
			<-happened
			c.String(http.StatusOK, "then")
		})
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- ServeListener(ctx, impatient{ln, open}, r, logger) }()
		busy := func() (n int) {
			open.mu.Lock()
			defer open.mu.Unlock()
			for _, conns := range open.byClient {
				for c := range conns {
					if c.busy.Load() {
						n++
					}
				}
			}
			return n
		}
		want := func(what string, n int) {
			t.Helper()
			if synctest.Wait(); busy() != n {
				t.Errorf("%s: %d connections are busy, want %d", what, busy(), n)
			}
		}
		conn := ln.dial()
		in := bufio.NewReader(conn)
		ask := func(target string) {
			if _, err := io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: cars\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		hear := func() {
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Error(err)
			}
		}
		want("before a request", 0)
		ask("/")
		hear()
		want("answered", 0)
		ask("/wait")
		want("waiting", 1)
		close(happened)
		hear()
		want("answered after a wait", 0)
		ask("/")
		hear()
		want("answered once more", 0)
		_ = conn.Close()
		synctest.Wait()
		if open.count != 0 {
			t.Errorf("%d connections are left", open.count)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
