package feedclient

import (
	"net/http"
	"sync"
	"time"
)

// lifetime is how long connections are used. New connections look up the host's name again: a source that has moved is
// no longer asked at its old address, even if something still answers there.
const lifetime = 5 * time.Minute

// A transport sends requests like an [http.Transport], over connections no older than 5 minutes, and can abandon all of
// them. Do that after a failed request: a dead connection, for example behind a forwarder that forgot it, would be used
// until the system gives it up after a quarter of an hour; with HTTP/2, by every request.
type transport struct {
	mu    sync.Mutex
	http  *http.Transport
	since time.Time // none of its connections was opened before
}

func newTransport() *transport { return &transport{http: NewTransport(), since: time.Now()} }

// RoundTrip sends a request.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	if time.Since(t.since) >= lifetime {
		t.renew()
	}
	now := t.http
	t.mu.Unlock()
	return now.RoundTrip(r)
}

// CloseIdleConnections closes the idle connections. Those in use are closed after their request.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renew()
}

// renew replaces the connections by new ones. t.mu is locked.
func (t *transport) renew() {
	before := t.http
	t.http, t.since = before.Clone(), time.Now()
	before.CloseIdleConnections()
}
