package web

import (
	"errors"
	"net/netip"
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

// Trust makes c.ClientIP believe these proxies, and nobody else.
func (p Proxies) Trust(r *gin.Engine) error {
	r.RemoteIPHeaders = []string{"X-Forwarded-For"}
	return r.SetTrustedProxies(p)
}

// HTTPS reports whether the client's connection is encrypted: to this server, or to a proxy that it trusts and that says so by
// X-Forwarded-Proto.
func HTTPS(c *gin.Context) bool { return c.Request.TLS != nil }
