package mailsink

import (
	"bytes"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-message/mail"
)

// A Mail is a received mail.
type Mail struct {
	Number     int       `json:"number"` // 1, 2, 3 ... in the order of arrival
	MessageID  string    `json:"message_id"`
	From       string    `json:"from"` // of the envelope, like To
	To         []string  `json:"to"`
	Subject    string    `json:"subject"`
	ReceivedAt time.Time `json:"received_at"` // UTC, seconds
	Text       string    `json:"text"`        // the text/plain part, or empty
	HTML       string    `json:"html"`        // the text/html part, or empty; not safe to embed
	Raw        []byte    `json:"-"`           // as received, after the header lines that the sink adds
}

func parse(raw []byte) *Mail {
	m := &Mail{Raw: raw}
	r, err := mail.CreateReader(bytes.NewReader(raw))
	if r == nil || err != nil && r.Header.Len() == 0 {
		return m
	}
	h := r.Header
	m.MessageID, _ = h.MessageID()
	m.Subject, _ = h.Subject()
	m.From = strings.Trim(h.Get("Return-Path"), "<>")
	m.To = strings.Split(h.Get("Delivered-To"), ", ")
	_, at, _ := strings.Cut(h.Get("Received"), "; ")
	if t, err := time.Parse(time.RFC1123Z, at); err == nil {
		m.ReceivedAt = t.UTC()
	}
	for {
		part, err := r.NextPart()
		if err != nil {
			return m
		}
		inline, ok := part.Header.(*mail.InlineHeader)
		if !ok {
			continue
		}
		text, err := io.ReadAll(part.Body)
		switch kind, _, _ := inline.ContentType(); {
		case err != nil:
			return m
		case kind == "text/html":
			m.HTML += string(text)
		case strings.HasPrefix(kind, "text/"):
			m.Text += string(text)
		}
	}
}
