package web

import (
	"context"
	"net/http"
	"net/netip"
)

// A Client is what the server knows of the client of a request: see [WithClient].
type Client struct {
	Reader   string        // the client's name, which it has proved to have; "" if it has none
	Addr     func() string // the client's address, if it is not the connection's, as behind a proxy; may be nil
	Operator func() string // the name of the operator who is logged in, or ""; may be nil; called only if there is a page
}

type clientKey struct{}

// WithClient returns the request with its client. Limits, the access log and metrics use the client's name, or else its
// address. Pages offer the logout to an operator who is logged in.
func WithClient(r *http.Request, client *Client) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), clientKey{}, client))
}

// ClientOf returns the client that [WithClient] added to the request, or nil.
func ClientOf(r *http.Request) *Client {
	client, _ := r.Context().Value(clientKey{}).(*Client)
	return client
}

// Reader returns the name of the client, or "" if it has none.
func Reader(r *http.Request) string {
	if client := ClientOf(r); client != nil {
		return client.Reader
	}
	return ""
}

// ClientKey returns the client's name, or else its address, or "" if neither is known. Of an IPv6 address it is the /64
// network, since one client has all of that.
func ClientKey(r *http.Request) string {
	client := ClientOf(r)
	if client != nil && client.Reader != "" {
		return client.Reader
	}
	var addr netip.Addr
	if client != nil && client.Addr != nil {
		addr, _ = netip.ParseAddr(client.Addr())
	} else if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr = peer.Addr()
	}
	if !addr.IsValid() {
		return ""
	}
	return ClientAddr(addr).String()
}

// ClientAddr returns one address in place of all that a client may have.
func ClientAddr(addr netip.Addr) netip.Addr {
	if addr = addr.Unmap(); addr.Is6() {
		network, _ := addr.Prefix(64)
		addr = network.Addr()
	}
	return addr
}

func operatorOf(r *http.Request) string {
	if client := ClientOf(r); client != nil && client.Operator != nil {
		return client.Operator()
	}
	return ""
}
