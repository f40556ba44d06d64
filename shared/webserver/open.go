package webserver

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

// openConns are the connections of a listener, bounded in all and per client. Where there are too many, an idle one of
// the client that has the most gives way to the new one; where none is idle, a slow one of a client that has more
// connections than the new one's. Where it is the client that has too many, one of its own gives way.
type openConns struct {
	most, ofClient int
	// Requests over HTTP/2, of which a connection has many, are as many as connections, and so are the refusals of more.
	requests, refusals *web.Slots
	// Bodies of requests that have not arrived leave connections to others, also to those behind the same proxy.
	bodies *share

	mu       sync.Mutex
	count    int
	byClient map[netip.Addr]map[*impatientConn]struct{}
}

func newOpenConns(most int) *openConns {
	ofClient := max(most*3/4, 1)
	bound := web.Bound{All: most, Client: ofClient}
	return &openConns{
		most: most, ofClient: ofClient, requests: web.NewSlots("requests over HTTP/2", bound), refusals: web.NewSlots("refusals", bound),
		bodies: newShare(web.Bound{All: ofClient, Client: max(ofClient/2, 1)}, 0), byClient: map[netip.Addr]map[*impatientConn]struct{}{},
	}
}

// admit reports whether there may be one more connection, and closes another one where that makes room for it.
func (o *openConns) admit(c *impatientConn) bool {
	if addr, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		c.client = web.ClientAddr(addr.AddrPort().Addr())
	}
	o.mu.Lock()
	var gives *impatientConn
	full := true
	switch mine := o.byClient[c.client]; {
	case len(mine) >= o.ofClient:
		gives, _ = givesWay(mine, true)
	case o.count >= o.most:
		if gives = o.find(0, false); gives == nil {
			gives = o.find(len(mine), true)
		}
	default:
		full = false
	}
	if full && gives == nil {
		o.mu.Unlock()
		return false
	}
	if o.byClient[c.client] == nil {
		o.byClient[c.client] = map[*impatientConn]struct{}{}
	}
	o.byClient[c.client][c] = struct{}{}
	o.count++
	o.mu.Unlock()
	if gives != nil {
		_ = gives.Close()
	}
	return true
}

// find returns a connection that gives way, of the client that has the most connections among those that have such a
// one and more than so many, or nil if there is none. It wants o.mu locked.
func (o *openConns) find(moreThan int, slow bool) (found *impatientConn) {
	most, longest := moreThan+1, time.Duration(-1)
	for _, conns := range o.byClient {
		if len(conns) < most {
			continue
		}
		c, waited := givesWay(conns, slow)
		if c != nil && (len(conns) > most || waited > longest) {
			found, most, longest = c, len(conns), waited
		}
	}
	return found
}

// givesWay returns a connection on which no request is under way, or else, with slow, the one whose client is slow and
// has been waited for the longest, and how long it has been; or nil.
func givesWay(conns map[*impatientConn]struct{}, slow bool) (slowest *impatientConn, waited time.Duration) {
	now := time.Now()
	for c := range conns {
		if !c.busy.Load() {
			return c, 0
		}
		if d := c.waited(now); slow && d > max(waited, slowAfter) {
			slowest, waited = c, d
		}
	}
	return slowest, waited
}

// giveWay closes the connection over which its client is waited for the most often, if there is one.
func (o *openConns) giveWay() {
	var slowest *impatientConn
	most, now := 0, time.Now()
	o.mu.Lock()
	for _, conns := range o.byClient {
		for c := range conns {
			if n := c.slowly(now); n > most {
				slowest, most = c, n
			}
		}
	}
	o.mu.Unlock()
	if slowest != nil {
		_ = slowest.Close()
	}
}

func (o *openConns) forget(c *impatientConn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	conns := o.byClient[c.client]
	if _, ok := conns[c]; !ok {
		return
	}
	o.count--
	if delete(conns, c); len(conns) == 0 {
		delete(o.byClient, c.client)
	}
}
