package topology

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/edison-cars/data-feeds/shared/directory"
)

// A silentConn sends nothing any more once it is silent, and is not closed.
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

// A connection that something on the way forgets makes a service look down once, no longer.
func TestConnectionThatGoesSilent(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it needs timeouts")
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("it is asked by %s", r.Proto)
		}
		_, _ = io.WriteString(w, "[]")
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	w := NewWatch([]directory.Service{{Name: "sales", URL: server.URL}}, "")
	defer w.leave(0)
	var mu sync.Mutex
	var conns []*silentConn
	transport := w.transports[0]
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		silent := &silentConn{Conn: conn}
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, silent)
		return silent, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	ask := func(want string) {
		t.Helper()
		if w.ask(t.Context(), 0); w.States()[0].Status != want {
			t.Fatalf("it is %s, not %s", w.States()[0].Status, want)
		}
	}
	ask(Up)
	mu.Lock()
	for _, conn := range conns {
		conn.silent.Store(true)
	}
	mu.Unlock()
	ask(Down)
	ask(Up)
}
