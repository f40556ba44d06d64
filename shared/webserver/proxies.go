package webserver

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// Proxies are those whose X-Forwarded-For says who a client is. The zero value is none.
type Proxies []string

// UnmarshalText reads a list of addresses and networks: 10.0.0.0/8,192.0.2.7.
func (p *Proxies) UnmarshalText(text []byte) error {
	*p = nil
	for item := range strings.SplitSeq(string(text), ",") {
		item = strings.TrimSpace(item)
		_, notAddr := netip.ParseAddr(item)
		_, notNetwork := netip.ParsePrefix(item)
		if notAddr != nil && notNetwork != nil || strings.Contains(item, "%") {
			return errors.New("takes a list of addresses and networks such as 10.0.0.0/8,192.0.2.7")
		}
		*p = append(*p, item)
	}
	return nil
}

// Trust makes c.ClientIP, [web.ClientKey] and [HTTPS] believe these proxies. Call it before routes are added.
func (p Proxies) Trust(r *gin.Engine) error {
	if len(p) > 0 {
		r.Handlers = slices.Insert(r.Handlers, 0, p.note)
		r.Use() // gin prepares its answers to unknown paths again
	}
	r.RemoteIPHeaders = []string{"X-Forwarded-For"}
	return r.SetTrustedProxies(p)
}

// HTTPS reports whether the client's connection is encrypted: to this server, or to a proxy that it trusts and that
// says so by X-Forwarded-Proto.
func HTTPS(c *gin.Context) bool { return c.Request.TLS != nil || c.GetBool(httpsKey{}) }

type httpsKey struct{}

// note notes for [web.ClientKey] where the client's address comes from, and for [HTTPS] that a proxy of p says https.
// Where several proxies say something, all have to say it: a client may have sent the first one's.
func (p Proxies) note(c *gin.Context) {
	clientOf(c).Addr = c.ClientIP
	said := c.Request.Header["X-Forwarded-Proto"]
	if len(said) == 0 {
		return
	}
	for scheme := range strings.SplitSeq(strings.Join(said, ","), ",") {
		if !strings.EqualFold(strings.TrimSpace(scheme), "https") {
			return
		}
	}
	if peer, err := netip.ParseAddrPort(c.Request.RemoteAddr); err == nil && p.include(peer.Addr().Unmap()) {
		c.Set(httpsKey{}, true)
	}
}

func (p Proxies) include(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(item string) bool {
		network, err := netip.ParsePrefix(item)
		if err != nil {
			one, err := netip.ParseAddr(item)
			return err == nil && one.Unmap() == addr
		}
		return network.Contains(addr)
	})
}
