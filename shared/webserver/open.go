package webserver

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

// openConns are the connections of a listener, bounded in all and per client. Where there are too many, an idle one of
// the client that has the most gives way to the new one; where none is idle, a slow one of a client that has more
// connections than the new one's.
type openConns struct {
	most, ofClient int
	// Requests over HTTP/2, of which a connection has many, are as many as connections, and so are the refusals of more.
	requests, refusals *web.Slots

	mu       sync.Mutex
	count    int
	byClient map[netip.Addr]map[*impatientConn]struct{}
}

func newOpenConns(most int) *openConns {
	ofClient := max(most*3/4, 1)
	bound := web.Bound{All: most, Client: ofClient}
	return &openConns{
		most: most, ofClient: ofClient, requests: web.NewSlots("requests over HTTP/2", bound), refusals: web.NewSlots("refusals", bound),
		byClient: map[netip.Addr]map[*impatientConn]struct{}{},
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
		gives = givesWay(mine, false)
	case o.count >= o.most:
		if gives = o.find(0, false); gives == nil {
			gives = o.find(len(mine)+1, true)
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
func (o *openConns) find(moreThan int, slow bool) *impatientConn {
	clients := make([]map[*impatientConn]struct{}, 0, len(o.byClient))
	for _, conns := range o.byClient {
		if len(conns) > moreThan {
			clients = append(clients, conns)
		}
	}
	slices.SortFunc(clients, func(a, b map[*impatientConn]struct{}) int { return len(b) - len(a) })
	for _, conns := range clients {
		if c := givesWay(conns, slow); c != nil {
			return c
		}
	}
	return nil
}

// givesWay returns a connection on which no request is under way, or with slow one whose client is slow, or nil.
func givesWay(conns map[*impatientConn]struct{}, slow bool) *impatientConn {
	now := time.Now()
	for c := range conns {
		if !c.busy.Load() || slow && c.slow(now) {
			return c
		}
	}
	return nil
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
