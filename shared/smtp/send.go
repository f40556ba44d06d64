package smtp

import (
	"bytes"
	"errors"
	"fmt"
	"net/textproto"
	"regexp"
	"strings"

	"github.com/wneessen/go-mail"
)

var (
	errUTF8 = errors.New("the mail server does not accept addresses beyond ASCII (SMTPUTF8)")
	errFrom = errors.New("MAIL_FROM: the mail server does not accept addresses beyond ASCII (SMTPUTF8)")
)

// An Outcome is how an attempt to send a mail ended.
type Outcome int

// The outcomes of an attempt.
const (
	Sent      Outcome = iota
	Refused           // temporarily
	Failed            // refused permanently
	Doubtful          // refused permanently, by a [*Refusal] that may concern every mail
	Setup             // the sender was refused, or the connection lost between two mails: no mail's fault
	Uncertain         // the mail was sent completely, without a reply: it may have arrived
	Trouble           // the connection failed: the mail was not sent
	Stopped           // begin failed: the mail was not sent, and the session is unusable
)

// Send sends a mail that has one address each in From and To. The error is nil if and only if it was sent; its text may
// contain the recipient. Right before the end of the mail, after which the outcome may be unknown, Send calls begin
// unless it is nil. If begin fails, Send returns its error.
func (c *Session) Send(m *mail.Msg, begin func() error) (Outcome, error) {
	var raw bytes.Buffer
	if _, err := m.WriteTo(&raw); err != nil {
		return Failed, fmt.Errorf("write the mail: %w", err)
	}
	from, to := m.GetFrom()[0].Address, m.GetTo()[0].Address
	if able, _ := c.client.Extension("SMTPUTF8"); !able {
		switch {
		case !ascii(from):
			return Setup, errFrom
		case !ascii(to):
			return Failed, errUTF8
		}
	}
	c.client.SkipSMTPUTF8(ascii(from + to))
	c.allow(replyTimeout)
	if err := c.client.Mail("<" + from + ">"); negative(err) {
		return Setup, fmt.Errorf("it refuses the sender (MAIL_FROM): %w", unquoted(err))
	}
	if err := c.client.Rcpt("<" + to + ">"); negative(err) {
		return c.judge("RCPT", err, Trouble)
	}
	w, err := c.client.Data()
	if err != nil {
		return c.judge("DATA", err, Trouble)
	}
	if _, err := w.Write(raw.Bytes()); err != nil {
		return Trouble, err
	}
	if begin != nil {
		if err := begin(); err != nil {
			c.abort()
			return Stopped, err
		}
	}
	c.allow(endTimeout)
	if err := w.Close(); negative(err) {
		return c.judge("end", err, Uncertain)
	}
	return Sent, nil
}

// negative reports whether err is anything but a positive reply. Its first digit decides, whatever the others are (RFC
// 5321 section 4.2.1): an accepted mail is not sent again.
func negative(err error) bool {
	reply, ok := errors.AsType[*textproto.Error](err)
	return err != nil && (!ok || reply.Code/100 != 2)
}

// unquoted replaces an error that quotes what is no reply, and may contain the recipient.
func unquoted(err error) error {
	if _, quotes := errors.AsType[textproto.ProtocolError](err); quotes {
		return errors.New("what it sends is no reply of SMTP")
	}
	return err
}

// A Refusal is a negative reply. Its text may contain the recipient.
type Refusal struct {
	stage string // the command that it replies to: "RCPT", "DATA" or "end"
	code  int
	text  string
}

// Error returns the reply.
func (r *Refusal) Error() string { return fmt.Sprintf("%d %s", r.code, r.text) }

// Short returns the reply's code and its command, without its text.
func (r *Refusal) Short() string {
	code := strings.TrimSpace(fmt.Sprint(r.code, " ", enhanced.FindString(r.text)))
	return code + " after " + r.stage
}

// enhanced matches the subject and detail of an enhanced status code (RFC 3463), such as 5.7.1. Subject 0 is no
// information.
var enhanced = regexp.MustCompile(`^[45]\.([1-9]\d{0,2})\.(\d{1,3})(\s|$)`)

// ofMail reports whether the reply concerns this recipient's mailbox or this mail's content, and so no other mail.
func (r *Refusal) ofMail() bool {
	match := enhanced.FindStringSubmatch(r.text)
	if match == nil {
		return false
	}
	switch match[1] {
	case "1": // addressing; 7 and 8 concern the sender's address
		return match[2] != "7" && match[2] != "8"
	case "2", "6": // mailbox, content
		return true
	}
	return false
}

// OfMailbox reports whether the reply is the general one about a mailbox (RFC 5321 section 4.2.3). Some servers also
// use it to refuse mails for other hosts.
func (r *Refusal) OfMailbox() bool {
	return r.code >= 550 && r.code <= 553 && !enhanced.MatchString(r.text)
}

// Closes reports whether the server closes the connection with this reply (RFC 5321 section 3.8).
func (r *Refusal) Closes() bool { return r.code == 421 }

// judge distinguishes a [Refusal] from a lost connection, and prepares the session for the next mail.
func (c *Session) judge(stage string, err error, lost Outcome) (Outcome, error) {
	reply, ok := errors.AsType[*textproto.Error](err)
	if !ok {
		return lost, unquoted(err)
	}
	r := &Refusal{stage, reply.Code, reply.Msg}
	if r.Closes() || c.client.Reset() != nil {
		c.abort() // the next mail detects it
	}
	switch {
	case r.code < 500:
		return Refused, r
	case r.ofMail():
		return Failed, r
	}
	return Doubtful, r
}
