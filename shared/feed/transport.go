package feed

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// A Transport sends requests as an [http.Transport] does, and can leave all its connections behind. That is to be done after a
// request that failed: a connection that is dead, as behind a forwarder that forgot it, is used else until the system gives it
// up, which takes a quarter of an hour, over HTTP/2 by every request.
type Transport struct {
	mu   sync.Mutex
	http *http.Transport
}

// NewTransport returns a Transport. A connection over HTTP/2 on which nothing comes for 10 s is tried by a PING, and is closed
// if that has no answer within 5 s.
func NewTransport() *Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
	return &Transport{http: t}
}

// RoundTrip sends a request.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	now := t.http
	t.mu.Unlock()
	return now.RoundTrip(r)
}

// CloseIdleConnections closes the connections that are kept for the next request. Those in use are not used for another one.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.http
	t.http = before.Clone()
	before.CloseIdleConnections()
}
