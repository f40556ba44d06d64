package web

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// openConns are the connections of a listener. They are bounded, in all and per client, so that files remain for what is not a
// client's connection, and connections for other clients. Where there are too many, one on which no request is under way gives
// way to the new one, of the client that has the most.
type openConns struct {
	most, ofClient int

	mu       sync.Mutex
	count    int
	byClient map[netip.Addr]map[*impatientConn]struct{}
}

// newOpenConns lets one client have three quarters of the connections.
func newOpenConns(most int) *openConns {
	return &openConns{most: most, ofClient: max(most*3/4, 1), byClient: map[netip.Addr]map[*impatientConn]struct{}{}}
}

// admit reports whether there may be one more connection, and closes another one where that makes room for it.
func (o *openConns) admit(c *impatientConn) bool {
	if addr, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		c.client = clientAddr(addr.AddrPort().Addr())
	}
	o.mu.Lock()
	var idle *impatientConn
	full := true
	switch {
	case len(o.byClient[c.client]) >= o.ofClient:
		idle = idleOf(o.byClient[c.client])
	case o.count >= o.most:
		idle = o.idle()
	default:
		full = false
	}
	if full && idle == nil {
		o.mu.Unlock()
		return false
	}
	if o.byClient[c.client] == nil {
		o.byClient[c.client] = map[*impatientConn]struct{}{}
	}
	o.byClient[c.client][c] = struct{}{}
	o.count++
	o.mu.Unlock()
	if idle != nil {
		_ = idle.Close()
	}
	return true
}

// idle returns a connection on which no request is under way, of the client that has the most connections among those that have
// such a one, or nil if there is none. It wants o.mu locked.
func (o *openConns) idle() *impatientConn {
	clients := make([]map[*impatientConn]struct{}, 0, len(o.byClient))
	for _, conns := range o.byClient {
		clients = append(clients, conns)
	}
	slices.SortFunc(clients, func(a, b map[*impatientConn]struct{}) int { return len(b) - len(a) })
	for _, conns := range clients {
		if c := idleOf(conns); c != nil {
			return c
		}
	}
	return nil
}

func idleOf(conns map[*impatientConn]struct{}) *impatientConn {
	for c := range conns {
		if !c.busy.Load() {
			return c
		}
	}
	return nil
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
