package webserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	grace       = 10 * time.Second // for requests and tasks that run to go on after the stop
	idleTimeout = 2 * time.Minute  // for a client to send the next request
)

// Listen takes addr (host:port; port 0 is any free one) without answering yet. A client that does not take what it is
// sent, 64 KiB within 30 s, will be cut off. Connections are bounded by [MaxConnections]: beyond it one on which no
// request is under way is closed for a new one.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("address %s is in use by another process; set ADDR to another address", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return impatient{ln, newOpenConns(web.MaxConnections())}, nil
}

// ServeListener answers requests by h until ctx is done, then lets running requests and their tasks, see [Background],
// end for up to 10 s and returns nil. It closes the listener. A client has 10 s for the header of a request, of 64 KiB
// at most (431).
func ServeListener(ctx context.Context, ln net.Listener, h http.Handler, logger *slog.Logger) error {
	tasks := &tasks{}
	tasks.ctx, tasks.abort = context.WithCancel(context.WithoutCancel(ctx))
	defer tasks.Wait()
	defer tasks.abort()
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		ConnContext:       withConn,
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(web.WithStopping(context.WithoutCancel(ctx), ctx.Done()), tasksKey{}, tasks)
		},
	}
	var silent sync.Map // connections that have not sent a request yet: Shutdown would give each of them 5 s
	server.ConnState = func(c net.Conn, state http.ConnState) {
		if conn := accepted(c); conn != nil {
			conn.busy.Store(state == http.StateActive)
			conn.allArrived()
		}
		if state == http.StateNew {
			silent.Store(c, nil)
		} else {
			silent.Delete(c)
		}
	}
	scheme := "http"
	if _, ok := ln.(tlsListener); ok {
		scheme = "https"
	}
	logger.InfoContext(ctx, "listening", "url", urlOf(scheme, ln.Addr()))
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	silent.Range(func(c, _ any) bool {
		_ = c.(net.Conn).Close()
		return true
	})
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		logger.WarnContext(ctx, "requests were cut off at the stop", "error", err)
		_ = server.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
	defer context.AfterFunc(patience, tasks.abort)()
	tasks.Wait()
	return nil
}

type tasks struct {
	sync.WaitGroup
	ctx   context.Context
	abort func()
}

type tasksKey struct{}

// Background runs f, which an answer has promised. A server that stops waits for f as for a running request, and then
// ends its context. If f pauses, it must end the pause at [web.Stopping].
func Background(ctx context.Context, f func(context.Context)) {
	of, _ := ctx.Value(tasksKey{}).(*tasks)
	ctx = context.WithoutCancel(ctx)
	if of == nil {
		go f(ctx)
		return
	}
	of.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(of.ctx, cancel)()
		f(ctx)
	})
}

// An Ending ends requests that wait, such as those with a token that was revoked, while their server goes on.
type Ending struct {
	ended chan struct{}
	mu    sync.Mutex
	of    map[<-chan struct{}]<-chan struct{} // by the channel that a server's stop closes: the channel that its requests wait for
}

// NewEnding returns an Ending that has not come.
func NewEnding() *Ending { return &Ending{ended: make(chan struct{})} }

// End ends the requests of Bind. Call it once.
func (e *Ending) End() { close(e.ended) }

// Bind returns the request with a context in which [web.Stopping] is closed by End, too.
func (e *Ending) Bind(req *http.Request) *http.Request {
	ctx := req.Context()
	return req.WithContext(web.WithStopping(ctx, e.either(web.Stopping(ctx))))
}

// either returns the channel that the stop of a server and End close. All requests to the server share it.
func (e *Ending) either(stop <-chan struct{}) <-chan struct{} {
	if stop == nil {
		return e.ended
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if ends := e.of[stop]; ends != nil {
		return ends
	}
	ends := make(chan struct{})
	go func() {
		select {
		case <-stop:
		case <-e.ended:
		}
		close(ends)
	}()
	if e.of == nil {
		e.of = map[<-chan struct{}]<-chan struct{}{}
	}
	e.of[stop] = ends
	return ends
}

// urlOf returns the URL at which a browser on this machine finds a listener.
func urlOf(scheme string, addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP.IsUnspecified() {
		_, port, _ := net.SplitHostPort(addr.String())
		return scheme + "://" + net.JoinHostPort("localhost", port)
	}
	return scheme + "://" + tcp.String()
}
