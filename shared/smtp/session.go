package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wneessen/go-mail/smtp"
)

const (
	dialTimeout  = 10 * time.Second
	replyTimeout = time.Minute
	endTimeout   = 10 * time.Minute // for the reply to the end of a mail: RFC 5321 section 4.5.3.2.6
	stopTimeout  = 5 * time.Second  // for all running commands after the stop
	maxReplies   = 1 << 20          // bytes, including TLS, that a server may send between two deadlines

	// SendTimeout is the longest time that [Session.Send] takes: for MAIL, RCPT and DATA, and for the end of the mail.
	SendTimeout = 3*replyTimeout + endTimeout
)

// A Session is a connection to the mail server that sends mails one after another.
type Session struct {
	client *smtp.Client
	ctx    context.Context
	conn   *bounded
	unhook func() bool
	last   atomic.Pointer[time.Time] // until when it lasts, once ctx has ended
}

// A bounded connection limits the bytes that it reads, so that a server cannot fill the memory.
type bounded struct {
	net.Conn
	left atomic.Int64
}

var errReplies = fmt.Errorf("its replies exceed %d bytes", maxReplies)

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if b.left.Add(-int64(n)) < 0 {
		return 0, errReplies
	}
	return n, err
}

// Dial returns a session, which the caller closes. Its errors contain no data of a mail, and no password. Each reply
// may take a minute, or ten at the end of a mail. When ctx ends, the session has 5 s left.
func (set *Settings) Dial(ctx context.Context) (_ *Session, err error) {
	s := &set.Server
	plain, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	c := newSession(ctx, plain)
	var conn net.Conn = c.conn
	defer func() {
		if err != nil {
			c.abort()
		}
	}()
	secure := &tls.Config{ServerName: s.host, RootCAs: s.roots, MinVersion: tls.VersionTLS12}
	if s.tls {
		conn = tls.Client(conn, secure)
	}
	if c.client, err = smtp.NewClient(conn, s.host); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	name := set.Helo.from(conn.LocalAddr())
	if err = c.client.Hello(name); err != nil {
		return nil, fmt.Errorf("it refuses the greeting EHLO %s (SMTP_HELO): %w", name, err)
	}
	encrypted := s.tls
	if offered, _ := c.client.Extension("STARTTLS"); offered && !s.tls {
		secure.InsecureSkipVerify = s.loopback() // the connection stays on this machine, where servers sign their own certificates
		if err = c.client.StartTLS(secure); err != nil {
			return nil, fmt.Errorf("STARTTLS: %w", err)
		}
		encrypted = true
	}
	if s.user == "" {
		return c, nil
	}
	return c, s.login(c, encrypted)
}

// newSession returns a session over a connection to a server that has replyTimeout to greet and to take the client's
// greetings.
func newSession(ctx context.Context, conn net.Conn) *Session {
	c := &Session{ctx: ctx, conn: &bounded{Conn: conn}}
	c.unhook = context.AfterFunc(ctx, func() { c.allow(0) })
	c.allow(replyTimeout)
	return c
}

func (s *Server) login(c *Session, encrypted bool) error {
	if !encrypted && !s.loopback() {
		return errors.New("it offers no TLS (STARTTLS), without which no password is sent")
	}
	_, mechanisms := c.client.Extension("AUTH")
	auth := smtp.PlainAuth("", s.user, s.password, s.host, true)
	switch offered := " " + mechanisms + " "; {
	case strings.Contains(offered, " PLAIN "):
	case strings.Contains(offered, " LOGIN "):
		auth = smtp.LoginAuth(s.user, s.password, s.host, true)
	default:
		return errors.New("it takes no password (AUTH PLAIN or LOGIN)")
	}
	err := c.client.Auth(auth)
	if reply, ok := errors.AsType[*textproto.Error](err); ok { // its text may quote the password
		return errors.New((&Refusal{"AUTH", reply.Code, reply.Msg}).Short())
	} else if err != nil {
		return fmt.Errorf("AUTH: %w", unquoted(err))
	}
	return nil
}

// allow sets the deadline of the next command, but not beyond the time left after ctx has ended.
func (c *Session) allow(d time.Duration) {
	c.conn.left.Store(maxReplies)
	if c.ctx.Err() == nil {
		_ = c.conn.SetDeadline(time.Now().Add(d))
	}
	if c.ctx.Err() != nil { // also if it has just ended
		last := time.Now().Add(stopTimeout)
		c.last.CompareAndSwap(nil, &last)
		_ = c.conn.SetDeadline(*c.last.Load())
	}
}

// Close sends QUIT and closes the connection.
func (c *Session) Close() {
	c.allow(replyTimeout)
	_ = c.client.Quit()
	c.abort()
}

// abort closes the connection. A mail that was not sent completely is discarded by the server.
func (c *Session) abort() {
	c.unhook()
	_ = c.conn.Close()
}
