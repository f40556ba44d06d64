package smtp

import (
	"errors"
	"net"
	"os"
	"regexp"
	"strings"
)

// A Greeting is the name for EHLO; "" is a name of this machine. Postfix refuses one that is not fully qualified.
type Greeting string

var (
	errGreeting = errors.New("takes the full name of this host, mail.example.com, or its address in brackets, [192.0.2.1] or [IPv6:2001:db8::1]")
	hostname    = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

// UnmarshalText reads a name or an address literal (RFC 5321 section 4.1.3).
func (g *Greeting) UnmarshalText(text []byte) error {
	name := string(text)
	if inside, ok := strings.CutPrefix(name, "["); ok {
		inside, closed := strings.CutSuffix(inside, "]")
		address, v6 := strings.CutPrefix(inside, "IPv6:")
		if ip := net.ParseIP(address); !closed || ip == nil || v6 != strings.Contains(address, ":") {
			return errGreeting
		}
	} else if name != "" && (!hostname.MatchString(name) || len(name) > 253) {
		return errGreeting
	}
	*g = Greeting(name)
	return nil
}

// from returns the name for a connection from the local address (RFC 5321 section 4.1.1.1).
func (g Greeting) from(local net.Addr) string {
	if g != "" {
		return string(g)
	}
	if name, err := os.Hostname(); err == nil && full(name) {
		return name
	}
	tcp, ok := local.(*net.TCPAddr)
	switch {
	case !ok:
		return "localhost"
	case tcp.IP.To4() != nil:
		return "[" + tcp.IP.String() + "]"
	}
	return "[IPv6:" + tcp.IP.String() + "]"
}

// full reports whether the name may be a fully qualified domain name.
func full(name string) bool {
	return strings.Contains(name, ".") && hostname.MatchString(name) && net.ParseIP(name) == nil && len(name) <= 253 &&
		!strings.HasSuffix(name, ".localdomain") && !strings.HasSuffix(name, ".local")
}
