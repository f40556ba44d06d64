// Package smtp sends mails to a mail server (RFC 5321).
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

// Settings name the mail server and the sender. Their tags are for package daemon.
type Settings struct {
	Server Server   `env:"SMTP_URL" help:"mail server: smtp://user:password@host:587 (STARTTLS) or smtps://user:password@host:465 (TLS); user and password are optional; without it no mail is sent"`
	Helo   Greeting `env:"SMTP_HELO" help:"name for the greeting (EHLO); by default the machine's name if it is fully qualified, else the address of the connection"`
	From   Sender   `env:"MAIL_FROM" envDefault:"Edison Cars <orders@edison-cars.example>" help:"sender of the mails"`
}

// ErrAddress is returned by [Address].
var ErrAddress = errors.New("this is not an e-mail address")

var (
	errSender = errors.New("takes an address such as Edison Cars <orders@edison-cars.example>")
	errServer = errors.New("takes the URL of a mail server, smtp://user:password@host:587 or smtps://user:password@host:465")
)

// A Server is the mail server of SMTP_URL. The zero Server means there is none.
type Server struct {
	addr           string // host:port
	host           string
	tls            bool // from the start (RFC 8314); else STARTTLS if the server offers it
	user, password string
	roots          *x509.CertPool // nil means the system's
}

// UnmarshalText reads the URL. Errors do not repeat it.
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

// String returns the URL without user and password, or "" if there is no server.
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

// UnmarshalText reads an address with or without a name.
func (s *Sender) UnmarshalText(text []byte) error {
	a, err := mail.ParseAddress(string(text))
	if err != nil {
		return errSender
	}
	a.Address = asciiDomain(a.Address)
	*s = Sender(*a)
	return nil
}

// Address returns an e-mail address in the form that every mail server accepts: the domain in ASCII if the whole
// address can be. It returns [ErrAddress] if the text is not an address without name and brackets.
func Address(email string) (string, error) {
	a, err := mail.ParseAddress("<" + email + ">")
	if err != nil || a.Address != email {
		return "", ErrAddress
	}
	return asciiDomain(email), nil
}

// Mailbox returns the same text for all addresses that seem to reach the same mailbox: it ignores upper case, the form
// of the domain, the part after "+", and dots before "@". The text is no address to send to.
func Mailbox(email string) string {
	local, domain := split(norm.NFKC.String(email))
	local, _, _ = strings.Cut(local, "+")
	if encoded, err := idna.Lookup.ToASCII(domain); err == nil {
		domain = encoded
	}
	return strings.ToLower(strings.ReplaceAll(local, ".", "") + "@" + domain)
}

func split(address string) (local, domain string) {
	at := strings.LastIndex(address, "@")
	return address[:max(at, 0)], address[at+1:]
}

func ascii(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r > '~' }) < 0 }

// asciiDomain returns an address with its domain in ASCII: ada@bücher.example becomes ada@xn--bcher-kva.example. An
// address with a local part beyond ASCII stays as it is, since it needs a server that accepts such domains anyway.
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
