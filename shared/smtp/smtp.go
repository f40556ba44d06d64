// Package smtp sends mails by a mail server (RFC 5321): its settings, connections with deadlines, and how an attempt to
// send a mail ended.
package smtp

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Settings name the mail server and the sender. Their tags are for the package daemon.
type Settings struct {
	Server Server   `env:"SMTP_URL" help:"mail server: smtp://user:password@host:587 (STARTTLS) or smtps://user:password@host:465 (TLS), the user left out where it asks for none; no mail is sent if left out"`
	Helo   Greeting `env:"SMTP_HELO" help:"name that the mail server is greeted with (EHLO); if left out the machine's, where that is a full one, else the address that it connects from"`
	From   Sender   `env:"MAIL_FROM" envDefault:"Edison Cars <orders@edison-cars.example>" help:"sender of the mails"`
}

// ErrAddress is returned by [Address].
var ErrAddress = errors.New("this is not an e-mail address")

var (
	errSender = errors.New("takes an address such as Edison Cars <orders@edison-cars.example>")
	errServer = errors.New("takes the URL of a mail server, smtp://user:password@host:587 or smtps://user:password@host:465")
)

// A Server is a mail server, as SMTP_URL gives it. The zero Server is none.
type Server struct {
	addr           string // host:port
	host           string
	tls            bool // from the start (RFC 8314); else STARTTLS where it is offered
	user, password string
	roots          *x509.CertPool // nil means the system's
}

// UnmarshalText reads the URL. Its errors do not repeat it.
func (s *Server) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	u, err := url.Parse(string(text))
	if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return errServer
	}
	port := u.Port()
	*s = Server{host: u.Hostname(), tls: u.Scheme == "smtps"}
	switch {
	case port != "":
	case s.tls:
		port = "465"
	default:
		port = "587"
	}
	s.addr, s.user = net.JoinHostPort(s.host, port), u.User.Username()
	if password, ok := u.User.Password(); ok != (s.user != "") {
		return fmt.Errorf("%w: a user goes with a password", errServer)
	} else {
		s.password = password
	}
	return nil
}

// String is the URL without user and password, or "" if there is no server.
func (s *Server) String() string {
	switch {
	case s.addr == "":
		return ""
	case s.tls:
		return "smtps://" + s.addr
	default:
		return "smtp://" + s.addr
	}
}

func (s *Server) loopback() bool {
	ip := net.ParseIP(s.host)
	return s.host == "localhost" || ip != nil && ip.IsLoopback()
}

// A Sender is an address with a name (RFC 5322 section 3.4).
type Sender mail.Address

// UnmarshalText reads both.
func (s *Sender) UnmarshalText(text []byte) error {
	a, err := mail.ParseAddress(string(text))
	if err != nil {
		return errSender
	}
	a.Address = asciiDomain(a.Address)
	*s = Sender(*a)
	return nil
}

// Address returns an e-mail address, given without name and brackets, as every mail server takes it: its domain is in
// ASCII, where the whole address can be. It fails with [ErrAddress].
func Address(email string) (string, error) {
	a, err := mail.ParseAddress("<" + email + ">")
	if err != nil || a.Address != email {
		return "", ErrAddress
	}
	return asciiDomain(email), nil
}

// Mailbox returns the same text for all addresses that seem to reach one mailbox: upper and lower case, the forms of a
// domain, what follows a "+", and dots before the "@" make no difference. It is no address to send to.
func Mailbox(email string) string {
	local, domain := split(norm.NFKC.String(email))
	local, _, _ = strings.Cut(local, "+")
	if encoded, err := idna.Lookup.ToASCII(domain); err == nil {
		domain = encoded
	}
	return strings.ToLower(strings.ReplaceAll(local, ".", "") + "@" + domain)
}

// split returns what stands before and after the last "@".
func split(address string) (local, domain string) {
	at := strings.LastIndex(address, "@")
	return address[:max(at, 0)], address[at+1:]
}

func ascii(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r > '~' }) < 0 }

// asciiDomain writes the domain of an address as every mail server takes it: ada@bücher.example is
// ada@xn--bcher-kva.example. An address whose other part goes beyond ASCII needs a server that takes such ones anyway,
// and stays as it is.
func asciiDomain(address string) string {
	local, domain := split(address)
	if !ascii(local) || ascii(domain) {
		return address
	}
	encoded, err := idna.Lookup.ToASCII(domain)
	if err != nil {
		return address
	}
	return local + "@" + encoded
}
