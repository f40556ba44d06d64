package feed

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// lifetime is how long connections are used. Those after them lead to where the name of the host leads by then: a source that
// has moved is asked at its old address for no longer, though that may answer for ever.
const lifetime = 5 * time.Minute

// A Transport sends requests as an [http.Transport] does, over connections no older than 5 minutes, and can leave all of them behind.
// That is to be done after a request that failed: a connection that is dead, as behind a forwarder that forgot it, is used else until
// the system gives it up, which takes a quarter of an hour, over HTTP/2 by every request.
type Transport struct {
	mu    sync.Mutex
	http  *http.Transport
	since time.Time // none of its connections was opened before
}

// NewTransport returns a Transport. A connection over HTTP/2 on which nothing comes for 10 s is tried by a PING, and is closed
// if that has no answer within 5 s.
func NewTransport() *Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
	return &Transport{http: t, since: time.Now()}
}

// RoundTrip sends a request.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	if time.Since(t.since) >= lifetime {
		t.renew()
	}
	now := t.http
	t.mu.Unlock()
	return now.RoundTrip(r)
}

// CloseIdleConnections closes the connections that are kept for the next request. Those in use are not used for another one.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renew()
}

// renew wants t.mu locked.
func (t *Transport) renew() {
	before := t.http
	t.http, t.since = before.Clone(), time.Now()
	before.CloseIdleConnections()
}
