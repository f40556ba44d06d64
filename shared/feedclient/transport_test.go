package feedclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A way leads to a server by connections that may go silent: nothing of what is sent arrives, and none is closed.
type way struct {
	accepted chan net.Conn
	mu       sync.Mutex
	conns    []*silentConn
}

type silentConn struct {
	net.Conn
	silent atomic.Bool
}

func (c *silentConn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (w *way) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	conn := &silentConn{Conn: near}
	w.mu.Lock()
	w.conns = append(w.conns, conn)
	w.mu.Unlock()
	w.accepted <- far
	return conn, nil
}

// silence makes all connections that there are go silent, and counts them.
func (w *way) silence() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		conn.silent.Store(true)
	}
	return len(w.conns)
}

func (w *way) Accept() (net.Conn, error) {
	conn, ok := <-w.accepted
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (w *way) Close() error {
	close(w.accepted)
	return nil
}

func (w *way) Addr() net.Addr { return &net.TCPAddr{} }

// Something on the way forgets connections. The request after the first one that fails uses a new one.
func TestConnectionsThatGoSilent(t *testing.T) {
	t.Parallel()
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	for protocol, major := range map[string]int{"h2": 2, "http/1.1": 1} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &way{accepted: make(chan net.Conn, 10)}
				held := make(chan struct{})
				var together sync.WaitGroup // those that are asked first, each over a connection of its own
				together.Add(3)
				var firsts atomic.Int32
				server := &http.Server{
					ReadHeaderTimeout: time.Hour,
					TLSConfig:         &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{protocol}},
					Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						if r.ProtoMajor != major {
							t.Errorf("it is asked by %s", r.Proto)
						}
						if r.Header.Get("Prefer") != "" {
							close(held)
							<-r.Context().Done()
							return
						}
						if firsts.Add(1) <= 3 {
							together.Done()
							together.Wait()
						}
						page()(rw, r)
					}),
				}
				if major == 1 {
					server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
				}
				go func() { _ = server.ServeTLS(w, "", "") }()
				client := New("")
				to := client.http.Transport.(*transport).http
				to.DialContext = w.dial
				to.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "example.com"}
				ask := func(wait time.Duration) error {
					_, err := client.Get(t.Context(), Request{URL: "https://example.com/feeds/things", Limit: 10, Wait: wait})
					return err
				}
				var first sync.WaitGroup
				for range 3 {
					first.Go(func() {
						if err := ask(0); err != nil {
							t.Error(err)
						}
					})
				}
				first.Wait()
				waited := make(chan time.Duration, 1)
				if major == 2 { // a connection in use
					go func() {
						began := time.Now()
						_ = ask(30 * time.Second)
						waited <- time.Since(began)
					}()
					<-held
				}
				before := w.silence()
				if err := ask(0); err == nil || errors.Is(err, context.Canceled) { // nobody cancelled it
					t.Fatalf("over a connection that is silent: %v", err)
				}
				began := time.Now()
				if err := ask(0); err != nil || time.Since(began) > time.Second {
					t.Errorf("the next request after %v: %v", time.Since(began), err)
				}
				if n := w.silence(); n <= before {
					t.Errorf("there were %d connections, then %d", before, n)
				}
				if major == 2 {
					if took := <-waited; took > 20*time.Second {
						t.Errorf("that a connection is dead which a request waits on was noticed after %v", took)
					}
				}
				client.Close()
				_ = server.Close()
			})
		})
	}
}

// A source has moved, and its name leads to the new address. The old one answers as before, with what it had.
func TestSourceThatHasMoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var moved atomic.Bool
		var ways [2]*way
		var asked [2]atomic.Int32
		for i := range ways {
			ways[i] = &way{accepted: make(chan net.Conn, 10)}
			server := &http.Server{ReadHeaderTimeout: time.Hour, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				asked[i].Add(1)
				page()(rw, r)
			})}
			go func() { _ = server.Serve(ways[i]) }()
			defer server.Close()
		}
		client := New("")
		defer client.Close()
		client.http.Transport.(*transport).http.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if moved.Load() {
				return ways[1].dial(ctx, network, addr)
			}
			return ways[0].dial(ctx, network, addr)
		}
		poll := func(times int) {
			t.Helper()
			for range times {
				if _, err := client.Get(t.Context(), Request{URL: "http://example.com/feeds/things", Limit: 10}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
			}
		}
		poll(60)
		if n := len(ways[0].conns); n != 1 {
			t.Errorf("%d connections within 5 minutes", n)
		}
		moved.Store(true)
		poll(61)
		if before := asked[0].Load(); before > 120 || asked[1].Load() == 0 {
			t.Errorf("the old address was asked %d times, the new one %d times", before, asked[1].Load())
		}
	})
}
