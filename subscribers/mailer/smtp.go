package mailer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wneessen/go-mail/smtp"
)

const (
	dialTimeout  = 10 * time.Second
	replyTimeout = time.Minute
	endTimeout   = 10 * time.Minute // for the reply to the end of a mail: RFC 5321 section 4.5.3.2.6
	stopTimeout  = 5 * time.Second  // for what runs at the stop
	maxReplies   = 1 << 20          // bytes, TLS included, that a server may send between two of its time limits
)

var (
	errSender  = errors.New("takes an address such as Edison Cars <orders@edison-cars.example>")
	errServer  = errors.New("takes the URL of a mail server, smtp://user:password@host:587 or smtps://user:password@host:465")
	errAddress = errors.New("this is not an e-mail address")
	errUTF8    = errors.New("the mail server does not take addresses beyond ASCII (SMTPUTF8)")
	errFrom    = errors.New("MAIL_FROM: the mail server does not take addresses beyond ASCII (SMTPUTF8)")
)

// A server is a mail server, as SMTP_URL gives it. The zero server is none.
type server struct {
	addr           string // host:port
	host           string
	tls            bool // from the start (RFC 8314); else STARTTLS where it is offered
	user, password string
	roots          *x509.CertPool // nil: the system's
}

// UnmarshalText reads the URL. Its errors do not repeat it.
func (s *server) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	u, err := url.Parse(string(text))
	if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return errServer
	}
	port := u.Port()
	*s = server{host: u.Hostname(), tls: u.Scheme == "smtps"}
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

// String is the URL without user and password.
func (s *server) String() string {
	switch {
	case s.addr == "":
		return ""
	case s.tls:
		return "smtps://" + s.addr
	default:
		return "smtp://" + s.addr
	}
}

func (s *server) loopback() bool {
	ip := net.ParseIP(s.host)
	return s.host == "localhost" || ip != nil && ip.IsLoopback()
}

// A session is a connection to the mail server that may send mails.
type session struct {
	*smtp.Client
	ctx    context.Context
	conn   *bounded
	unhook func() bool
}

// A bounded connection reads so many bytes: else a server that does not stop fills the memory.
type bounded struct {
	net.Conn
	left atomic.Int64
}

var errReplies = fmt.Errorf("its replies are longer than %d bytes", maxReplies)

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if b.left.Add(-int64(n)) < 0 {
		return 0, errReplies
	}
	return n, err
}

// dial gives a session, whose errors tell nothing of a mail. When ctx ends, it has 5 s left.
func (s *server) dial(ctx context.Context, helo greeting) (_ *session, err error) {
	plain, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	c := &session{ctx: ctx, conn: &bounded{Conn: plain}}
	var conn net.Conn = c.conn
	c.unhook = context.AfterFunc(ctx, func() { c.allow(0) })
	defer func() {
		if err != nil {
			c.abort()
		}
	}()
	c.allow(replyTimeout)
	secure := &tls.Config{ServerName: s.host, RootCAs: s.roots, MinVersion: tls.VersionTLS12}
	if s.tls {
		conn = tls.Client(conn, secure)
	}
	if c.Client, err = smtp.NewClient(conn, s.host); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	name := helo.from(conn.LocalAddr())
	if err = c.Hello(name); err != nil {
		return nil, fmt.Errorf("it refuses the greeting EHLO %s (SMTP_HELO): %w", name, err)
	}
	encrypted := s.tls
	if offered, _ := c.Extension("STARTTLS"); offered && !s.tls {
		secure.InsecureSkipVerify = s.loopback() // nobody is between, and such servers sign their own certificates
		if err = c.StartTLS(secure); err != nil {
			return nil, fmt.Errorf("STARTTLS: %w", err)
		}
		encrypted = true
	}
	if s.user == "" {
		return c, nil
	}
	return c, s.login(c, encrypted)
}

func (s *server) login(c *session, encrypted bool) error {
	if !encrypted && !s.loopback() {
		return errors.New("it offers no TLS (STARTTLS), without which no password is sent")
	}
	_, mechanisms := c.Extension("AUTH")
	auth := smtp.PlainAuth("", s.user, s.password, s.host, true)
	switch offered := " " + mechanisms + " "; {
	case strings.Contains(offered, " PLAIN "):
	case strings.Contains(offered, " LOGIN "):
		auth = smtp.LoginAuth(s.user, s.password, s.host, true)
	default:
		return errors.New("it takes no password (AUTH PLAIN or LOGIN)")
	}
	if err := c.Auth(auth); err != nil {
		return fmt.Errorf("AUTH: %w", err)
	}
	return nil
}

// allow gives what comes next so long, or what is left after ctx has ended.
func (c *session) allow(d time.Duration) {
	c.conn.left.Store(maxReplies)
	_ = c.conn.SetDeadline(time.Now().Add(d))
	if c.ctx.Err() != nil {
		_ = c.conn.SetDeadline(time.Now().Add(stopTimeout))
	}
}

func (c *session) close() {
	c.allow(replyTimeout)
	_ = c.Quit()
	c.abort()
}

// abort cuts the connection: a mail of which the end was not sent is none.
func (c *session) abort() {
	c.unhook()
	_ = c.conn.Close()
}

// An outcome is how an attempt to send a mail ended.
type outcome int

const (
	sent      outcome = iota
	refused           // temporarily
	failed            // refused for good
	doubtful          // refused for good, by a reply that may be meant for every mail: see outbox.judge
	setup             // the sender is refused, or the connection lost between two mails: no mail's fault
	uncertain         // the end of the mail was sent, and no reply came: it may have arrived
	trouble           // with the connection: the mail was not sent
	outdated          // begin refused it
)

// send sends a mail. Right before its end, from which on nobody knows whether it arrives, it calls begin; where that fails
// nothing was sent.
func (c *session) send(from, to string, raw []byte, begin func() error) (outcome, error) {
	if able, _ := c.Extension("SMTPUTF8"); !able {
		switch {
		case !ascii(from):
			return setup, errFrom
		case !ascii(to):
			return failed, errUTF8
		}
	}
	c.SkipSMTPUTF8(ascii(from + to))
	c.allow(replyTimeout)
	if err := c.Mail(from); negative(err) {
		return setup, fmt.Errorf("it refuses the sender (MAIL_FROM): %w", err)
	}
	if err := c.Rcpt(to); negative(err) {
		return c.judge("RCPT", err, trouble)
	}
	w, err := c.Data()
	if err != nil {
		return c.judge("DATA", err, trouble)
	}
	if _, err := w.Write(raw); err != nil {
		return trouble, err
	}
	if err := begin(); err != nil {
		return outdated, err
	}
	c.allow(endTimeout)
	if err := w.Close(); negative(err) {
		return c.judge("end", err, uncertain)
	}
	return sent, nil
}

// negative reports whether err is anything but a positive reply, of which the first digit tells whatever the others are
// (RFC 5321 section 4.2.1). A mail that was taken so is not sent again.
func negative(err error) bool {
	reply, ok := errors.AsType[*textproto.Error](err)
	return err != nil && (!ok || reply.Code/100 != 2)
}

// A refusal is a reply that is no success. Its text may name the recipient.
type refusal struct {
	stage string // "RCPT", "DATA" or "end": after which command it came
	code  int
	text  string
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s", r.code, r.text) }

// enhanced is the subject and detail of a reply (RFC 3463): 5.7.1.
// The subject 0 says nothing.
var enhanced = regexp.MustCompile(`^[45]\.([1-9]\d{0,2})\.(\d{1,3})(\s|$)`)

// ofMail reports whether the reply speaks of this recipient's mailbox or this mail's content, and so of no other mail.
func (r *refusal) ofMail() bool {
	match := enhanced.FindStringSubmatch(r.text)
	if match == nil {
		return false
	}
	switch match[1] {
	case "1": // addressing; but 7 and 8 are of the sender's address
		return match[2] != "7" && match[2] != "8"
	case "2", "6": // mailbox, content
		return true
	}
	return false
}

// ofMailbox reports whether the reply is what a server says of a mailbox (RFC 5321 section 4.2.3), if it is not more exact. But
// some say the same where they do not take mails for other hosts.
func (r *refusal) ofMailbox() bool {
	return r.code >= 550 && r.code <= 553 && !enhanced.MatchString(r.text)
}

// judge tells a refusal from a lost connection, and makes the session fit for the next mail.
func (c *session) judge(stage string, err error, lost outcome) (outcome, error) {
	reply, ok := errors.AsType[*textproto.Error](err)
	switch {
	case !ok:
		return lost, err
	case reply.Code == 421: // RFC 5321 section 3.8: it closes the connection
		return refused, err
	}
	r := &refusal{stage, reply.Code, reply.Msg}
	if c.Reset() != nil {
		c.abort() // which the next mail will notice
	}
	switch {
	case r.code < 500:
		return refused, r
	case r.ofMail():
		return failed, r
	}
	return doubtful, r
}
