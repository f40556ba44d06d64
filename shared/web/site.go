package web

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// A Site is the http or https address of a server, without a slash at the end, host and port as browsers write them.
type Site string

var errSite = errors.New("takes a URL such as http://localhost:8080")

// UnmarshalText reads a URL such as http://localhost:8080.
func (s *Site) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errSite
	}
	host := strings.ToLower(u.Hostname())
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.String()
	} else if ascii, err := idna.Lookup.ToASCII(host); err == nil {
		host = ascii
	}
	if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) {
		return errSite
	}
	port := u.Port()
	if n, err := strconv.Atoi(cmp.Or(port, "80")); err != nil || n > 65535 {
		return errSite
	}
	if port == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		port = ""
	}
	u.Host = strings.TrimSuffix(net.JoinHostPort(host, port), ":")
	*s = Site(strings.TrimSuffix(u.String(), "/"))
	return nil
}

// Origin returns its scheme, host and port (RFC 6454).
func (s Site) Origin() string {
	scheme, rest, _ := strings.Cut(string(s), "://")
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host
}
