// Package mailsink is a mail server that accepts every mail, delivers none, and shows them on a page.
package mailsink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	maxMail    = 1 << 20  // bytes per mail
	maxMails   = 10_000   // stored mails; the oldest are dropped first
	maxBytes   = 64 << 20 // of all stored mails
	maxSilence = time.Minute
)

// A Sink stores the newest mails: at most 10,000, and 64 MiB. Set its fields before it serves.
type Sink struct {
	Dir    string                              // stores them as .eml files that only this user can read; "" means only in memory
	TLS    *tls.Config                         // offers STARTTLS (RFC 3207); nil means no TLS
	Login  func(user, password string) bool    // offers AUTH PLAIN (RFC 4954), if there is TLS only over TLS, and requires it; nil means no login
	Refuse func(recipient string) *Refusal     // refuses a recipient unless it is nil or returns nil
	After  func(mail *Mail) (refused *Refusal) // refuses a mail after its last line, as Refuse does; a refused mail is not stored

	mu    sync.Mutex
	mails []*Mail // oldest first
	bytes int
	last  int
}

// A Refusal is an SMTP reply (RFC 5321 section 4.2): temporary with a code of 400 to 499, permanent from 500 on.
type Refusal = smtp.SMTPError

// Open creates Dir if necessary, and reads its mails.
func (s *Sink) Open() error {
	if s.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	files, err := fs.Glob(os.DirFS(s.Dir), "*.eml") // sorted by number
	for _, file := range files[max(0, len(files)-maxMails):] {
		number := 0
		if _, scanErr := fmt.Sscanf(file, "%d.eml", &number); scanErr != nil {
			continue
		}
		raw, readErr := os.ReadFile(filepath.Join(s.Dir, file))
		if readErr != nil {
			err = errors.Join(err, readErr)
			continue
		}
		m := parse(raw)
		m.Number = number
		s.add(m)
	}
	return err
}

// Mails returns the stored mails, oldest first.
func (s *Sink) Mails() []*Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

func (s *Sink) keep(m *Mail) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Number = s.last + 1
	if s.Dir != "" {
		if err := os.WriteFile(s.file(m.Number), m.Raw, 0o600); err != nil {
			return err
		}
	}
	s.add(m)
	return nil
}

// Ready returns a problem (503) if Dir takes no mail now, as when it is full or gone.
func (s *Sink) Ready(context.Context) error {
	if s.Dir == "" {
		return nil
	}
	file, err := os.CreateTemp(s.Dir, "*.ready")
	if err == nil {
		_, err = file.Write(make([]byte, 4<<10))
		err = errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	if err != nil {
		return web.Errorf(http.StatusServiceUnavailable, "Not ready: no mail can be stored.")
	}
	return nil
}

func (s *Sink) file(number int) string { return filepath.Join(s.Dir, fmt.Sprintf("%08d.eml", number)) }

func (s *Sink) add(m *Mail) {
	s.mails, s.bytes, s.last = append(s.mails, m), s.bytes+len(m.Raw), max(s.last, m.Number)
	for len(s.mails) > maxMails || s.bytes > maxBytes {
		if s.Dir != "" {
			_ = os.Remove(s.file(s.mails[0].Number))
		}
		s.bytes -= len(s.mails[0].Raw)
		s.mails = slices.Delete(s.mails, 0, 1)
	}
}

// Serve receives mails at ln until ctx ends.
func (s *Sink) Serve(ctx context.Context, ln net.Listener, logger *slog.Logger) error {
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &session{sink: s, welcome: s.Login == nil}, nil
	}))
	server.Domain, server.TLSConfig, server.AllowInsecureAuth = "localhost", s.TLS, s.TLS == nil
	server.MaxMessageBytes, server.EnableSMTPUTF8 = maxMail, true
	server.ReadTimeout, server.WriteTimeout = maxSilence, maxSilence
	server.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelInfo)
	defer context.AfterFunc(ctx, func() { _, _ = server.Close(), ln.Close() })()
	logger.InfoContext(ctx, "taking mails", "url", "smtp://"+ln.Addr().String())
	if err := server.Serve(ln); err != nil && ctx.Err() == nil {
		return fmt.Errorf("take mails at %s: %w", ln.Addr(), err)
	}
	return nil
}

type session struct {
	sink    *Sink
	welcome bool
	from    string
	to      []string
}

func (c *session) AuthMechanisms() []string {
	if c.sink.Login == nil {
		return nil
	}
	return []string{sasl.Plain}
}

func (c *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if c.welcome = c.sink.Login != nil && c.sink.Login(user, password); !c.welcome {
			return smtp.ErrAuthFailed
		}
		return nil
	}), nil
}

func (c *session) Mail(from string, _ *smtp.MailOptions) error {
	if !c.welcome {
		return &Refusal{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	c.from = from
	return nil
}

func (c *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if c.sink.Refuse != nil {
		if refused := c.sink.Refuse(to); refused != nil {
			return refused
		}
	}
	c.to = append(c.to, to)
	return nil
}

// Data stores nothing if the connection is lost before the mail's last line.
func (c *session) Data(r io.Reader) error {
	var raw bytes.Buffer
	// The header lines of a final delivery (RFC 5321 section 4.4), which record the envelope.
	fmt.Fprintf(&raw, "Return-Path: <%s>\r\nDelivered-To: %s\r\nReceived: by localhost (mailsink); %s\r\n",
		c.from, strings.Join(c.to, ", "), time.Now().UTC().Format(time.RFC1123Z))
	if _, err := raw.ReadFrom(r); err != nil {
		return err
	}
	m := parse(raw.Bytes())
	if c.sink.After != nil {
		if refused := c.sink.After(m); refused != nil {
			return refused
		}
	}
	if err := c.sink.keep(m); err != nil {
		return &Refusal{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "The mail cannot be kept"}
	}
	return nil
}

func (c *session) Reset() { c.from, c.to = "", nil }

func (*session) Logout() error { return nil }
