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

// Hosts are names and addresses by which clients reach a server.
type Hosts []string

var errHosts = errors.New("takes a list of host names and addresses such as feeds.example,10.0.0.7")

// UnmarshalText reads a list separated by commas or white space. A port is ignored.
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

// A host is a name, in lower case and without the dot of the root, or an address.
type host struct {
	name string
	addr netip.Addr
}

// listedHost reads a host as people write it: IPv6 without brackets, and a name in letters of any language.
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

// parseHost reads a header field Host (RFC 9110 section 7.2) without its port. ok is false if no client of a server of ours
// sends it.
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
	if name != "" && digits(name[len(name)-1:]) { // no name ends so: the last label of one is not a number
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

// loopback reports whether browsers find the host on their own machine.
func (h host) loopback() bool {
	return h.addr.IsLoopback() || h.name == "localhost" || strings.HasSuffix(h.name, ".localhost")
}

// ours reports whether a request is for this server, by its Host: a page of another name whose address was changed to this one
// (DNS rebinding) may send nothing.
func (a *Access) ours(field string) bool {
	h, ok := parseHost(field)
	return ok && (h.loopback() || a.hosts[h])
}

// local reports whether a client of this machine sends the request for itself. Its Host is loopback's: a proxy that tells nothing of
// itself, as HAProxy's default is, sends that of the world.
func local(req *http.Request) bool {
	peer, err := netip.ParseAddrPort(req.RemoteAddr)
	h, ok := parseHost(req.Host)
	return err == nil && peer.Addr().Unmap().IsLoopback() && ok && h.loopback() && !proxied(req)
}

// proxied reports whether anything tells of a proxy. nginx speaks HTTP/1.0 unless it is told otherwise, up to 1.29.6. Clients
// send a whole URL to proxies alone (RFC 9112 section 3.2.2); its host counts, and not that in Host, which a proxy may have checked.
func proxied(req *http.Request) bool {
	if !req.ProtoAtLeast(1, 1) || req.URL.Host != "" {
		return true
	}
	for name := range req.Header {
		if strings.Contains(name, "_") { // as in x_real_ip
			name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		}
		if name == "X-Requested-With" || strings.HasPrefix(name, "X-Prometheus-") { // of clients
			continue
		}
		if slices.ContainsFunc(ofProxies, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return true
		}
	}
	return false
}

// ofProxies are what the names of header fields begin with that proxies add. Most begin with X-, and clients send hardly any such one.
var ofProxies = []string{
	"X-", "Forwarded", "Via", "Proxy-", "Client-Ip", "Clientip", "Client-Cert", "True-Client-Ip", "Cluster-Client-Ip", "Remote-", "Real-Ip", "Early-Data", "Ssl-", "Http-",
	"Front-End-Https", "Max-Forwards", "Surrogate-", "Cdn-", "Cf-", "Cloudfront-", "Fastly-", "Akamai-", "Ali-", "Eagle", "Fly-", "Incap-", "Ngrok-", "Sozu-", "Tailscale-",
	"Wl-Proxy-",
}
