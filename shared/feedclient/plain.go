package feedclient

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// PlainHosts are hosts of a private network, to which tokens and passwords may be sent without TLS, as to loopback.
type PlainHosts []string

var errHosts = errors.New("takes names or addresses of hosts without ports, separated by spaces or commas, such as sales,customers")

// UnmarshalText parses names or addresses of hosts, separated by spaces or commas.
func (p *PlainHosts) UnmarshalText(text []byte) error {
	*p = nil
	for _, host := range strings.FieldsFunc(string(text), func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(host, ":/@*?#[]") {
			return errHosts
		}
		*p = append(*p, hostName(host))
	}
	return nil
}

// Check returns an error if a request for the URL would send FEED_TOKEN, or the URL's user, without TLS to a host that
// is neither on this machine nor in p. setting is the name of the setting of p.
func (p PlainHosts) Check(u *url.URL, token bool, setting string) error {
	secret := "FEED_TOKEN"
	if u.User != nil {
		secret = "the user in the URL"
	}
	host := hostName(u.Hostname())
	if !token && u.User == nil || u.Scheme == "https" || loopback(host) || slices.Contains(p, host) {
		return nil
	}
	return fmt.Errorf("%s would be sent to %s without TLS: take an https URL or, if all of the network on the way is private, name the host in %s",
		secret, host, setting)
}

// loopback reports whether the host is this machine (RFC 6761 section 6.3).
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && addr.Unmap().IsLoopback()
}

// ShownURL returns the URL as anybody may see it: with xxxxx in place of a password, and of a user without one, which
// may be a key.
func ShownURL(u *url.URL) string {
	if _, has := u.User.Password(); u.User != nil && !has {
		shown := *u
		shown.User = url.User("xxxxx")
		return shown.String()
	}
	return u.Redacted()
}

// hostName returns the host in the form in which hosts are compared.
func hostName(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }
