package access

import (
	"errors"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// Hosts are names and addresses of a server.
type Hosts []string

var errHosts = errors.New("takes a list of host names and addresses such as feeds.example,10.0.0.7")

// UnmarshalText reads a list separated by commas or white space. Ports are ignored.
func (h *Hosts) UnmarshalText(text []byte) error {
	*h = items(string(text))
	for _, item := range *h {
		if _, ok := listedHost(item); !ok {
			return errHosts
		}
	}
	if len(*h) == 0 {
		return errHosts
	}
	return nil
}

// A host is an address, or a name in lower case without a dot at the end.
type host struct {
	name string
	addr netip.Addr
}

// listedHost parses a host as written in settings: IPv6 without brackets, a name in letters of any language.
func listedHost(s string) (host, bool) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return host{addr: addr.Unmap()}, true
	}
	name, port, hasPort := strings.Cut(s, ":")
	if ascii, err := idna.Lookup.ToASCII(name); err == nil {
		s = ascii
		if hasPort {
			s += ":" + port
		}
	}
	return parseHost(s)
}

// parseHost parses the Host field (RFC 9110 section 7.2) and drops the port. ok is false if no legitimate client sends
// it.
func parseHost(s string) (h host, ok bool) {
	name, port, _ := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") {
		var rest string
		if name, rest, ok = strings.Cut(s[1:], "]"); !ok {
			return h, false
		}
		var hasPort bool
		if port, hasPort = strings.CutPrefix(rest, ":"); !hasPort && rest != "" {
			return h, false
		}
		addr, err := netip.ParseAddr(name)
		return host{addr: addr.Unmap()}, err == nil && addr.Is6() && addr.Zone() == "" && digits(port)
	}
	if !digits(port) {
		return h, false
	}
	name = strings.TrimSuffix(name, ".")
	if name != "" && digits(name[len(name)-1:]) { // the last label of a name is not a number
		if addr, err := netip.ParseAddr(name); err == nil {
			return host{addr: addr}, true
		}
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return h, false
		}
	}
	return host{name: strings.ToLower(name)}, true
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// loopback reports whether browsers resolve the host to their own machine.
func (h host) loopback() bool {
	return h.addr.IsLoopback() || h.name == "localhost" || strings.HasSuffix(h.name, ".localhost")
}

// ours reports whether the Host is this server's. It stops DNS rebinding, where another name is made to resolve to this
// server.
func (a *Access) ours(field string) bool {
	h, ok := parseHost(field)
	return ok && (h.loopback() || a.hosts[h])
}

// local reports whether a client on this machine sent the request without a proxy: one that adds no header field still
// forwards the public Host.
func local(req *http.Request) bool {
	peer, err := netip.ParseAddrPort(req.RemoteAddr)
	h, ok := parseHost(req.Host)
	return err == nil && peer.Addr().Unmap().IsLoopback() && ok && h.loopback() && !proxied(req)
}

// proxied reports whether the request shows any sign of a proxy. nginx uses HTTP/1.0 by default up to 1.29.6. Clients
// send an absolute URL only to proxies (RFC 9112 section 3.2.2); it takes precedence over the Host field, which a proxy
// may have checked.
func proxied(req *http.Request) bool {
	if !req.ProtoAtLeast(1, 1) || req.URL.Host != "" {
		return true
	}
	for name := range req.Header {
		if strings.Contains(name, "_") { // for example x_real_ip
			name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		}
		if name == "X-Requested-With" || strings.HasPrefix(name, "X-Prometheus-") { // sent by clients
			continue
		}
		if slices.ContainsFunc(ofProxies, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return true
		}
	}
	return false
}

// ofProxies are prefixes of header fields that proxies add. Most begin with X-, which clients hardly ever send.
var ofProxies = []string{
	"X-", "Forwarded", "Via", "Proxy-", "Client-Ip", "Clientip", "Client-Cert", "True-Client-Ip", "Cluster-Client-Ip", "Remote-", "Real-Ip", "Early-Data", "Ssl-", "Http-",
	"Front-End-Https", "Max-Forwards", "Surrogate-", "Cdn-", "Cf-", "Cloudfront-", "Fastly-", "Akamai-", "Ali-", "Eagle", "Fly-", "Incap-", "Ngrok-", "Sozu-", "Tailscale-",
	"Wl-Proxy-",
}
