package mailer

import (
	"bytes"
	"mime"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/smtp"
)

// read gives what a mail program makes of the one mail for order 1.
func (b *bench) read(t *testing.T) (mail.Header, string, string) {
	t.Helper()
	m := arrivals(b.sink, 1)[0]
	parsed, err := mail.ReadMessage(bytes.NewReader(m.Raw))
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Header, strings.ReplaceAll(m.Text, "\r\n", "\n"), m.HTML
}

func TestConfirmation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.customers(t, customerEntry(t, aCustomer(1, 1)))
	b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
	began := time.Now().Truncate(time.Second)
	b.mustWork(t)
	header, text, html := b.read(t)
	to, err := header.AddressList("To")
	if err != nil || len(to) != 1 || *to[0] != (mail.Address{Name: "Zoë Müller 1", Address: email(1)}) {
		t.Errorf("to %v, %v", to, err)
	}
	from, err := header.AddressList("From")
	if err != nil || len(from) != 1 || *from[0] != (mail.Address{Name: "Edison Cars", Address: "orders@edison-cars.example"}) {
		t.Errorf("from %v, %v", from, err)
	}
	if at, err := header.Date(); err != nil || at.Before(began) || at.After(time.Now()) {
		t.Errorf("date %v, %v", at, err)
	}
	for field, want := range map[string]string{
		"Auto-Submitted": "auto-generated", "Message-Id": "<order-" + orderID(1).String() + ".confirmation@edison-cars.example>",
		"Subject": "Your order " + short(orderID(1)) + " at Edison Cars", "Return-Path": "<orders@edison-cars.example>",
	} {
		if got := header.Get(field); got != want {
			t.Errorf("%s: %s", field, got)
		}
	}
	if kind, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || kind != "multipart/alternative" {
		t.Errorf("%s, %v", kind, err)
	}
	want := `Dear Zoë Müller 1,

thank you for your order. This is what we have noted:

2 x Edison Volta with heat pump, long range
    €27,970.00 each, €55,940.00 in all

Total: €55,940.00

Order number: ` + orderID(1).String() + `
Placed on 23 November 2026 at 12:00 UTC

Your Edison Cars team

This mail was sent by itself; nobody reads an answer to it.
`
	if text != want {
		t.Errorf("%s", text)
	}
	for _, part := range []string{"Dear Zoë Müller 1,", "<td>Edison Volta with heat pump, long range<br><small>€27,970.00 each</small></td>", "€55,940.00", orderID(1).String()} {
		if !strings.Contains(html, part) {
			t.Errorf("not %q in %s", part, html)
		}
	}
	if m := b.mail(t, 1); *m.Body != text || *m.Recipient != email(1) || *m.Name != "Zoë Müller 1" {
		t.Errorf("the outbox has %+v", m)
	}
}

// What a customer calls themselves is a name, wherever it stands.
func TestStrangeNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Eve\r\nBcc: eve@evil.example\r\n\r\nbuy this", `Eve" <eve@evil.example>, "Zoë`, "Eve <eve@evil.example>", "<script>alert(1)</script>", ".\r\n.\r\n",
		"=?utf-8?q?Eve?=", strings.Repeat("Zoë von und zu ", 40), "名前", "\u202eeve", "\x01\x7f\t",
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			c := aCustomer(1, 1)
			c.Name = name
			b.customers(t, customerEntry(t, c))
			b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
			b.mustWork(t)
			b.want(t, 1, "sent", 1)
			header, text, html := b.read(t)
			to, err := header.AddressList("To")
			if err != nil || len(to) != 1 || to[0].Address != email(1) || strings.TrimSpace(to[0].Name) != strings.TrimSpace(name) {
				t.Errorf("to %q, %v: %q", to, err, header.Get("To"))
			}
			if len(header) != 11 || header.Get("Bcc") != "" {
				t.Errorf("%d fields: %v", len(header), header)
			}
			if !strings.HasPrefix(text, "Dear ") || !strings.Contains(text, "This mail was sent by itself") || strings.Contains(html, "<script") {
				t.Errorf("%s\n%s", text, html)
			}
			for line := range strings.Lines(string(arrivals(b.sink, 1)[0].Raw)) {
				if len(line) > 1000 { // RFC 5322 section 2.1.1
					t.Errorf("a line of %d bytes", len(line))
				}
			}
		})
	}
}

func TestComposeIsStable(t *testing.T) {
	t.Parallel()
	compose := func() string {
		c := confirmation{
			OrderID: uuid.Max, ComposedAt: noon, Name: "Zoë", email: "zoe@mail.example", Currency: "EUR", PlacedAt: noon,
			LinesJSON: []byte(`[{"model": "ohm", "options": [], "quantity": 1, "unit_price_cents": 100}]`),
		}
		m, err := c.compose(&smtp.Sender{Address: "orders@edison-cars.example"})
		if err != nil {
			t.Fatal(err)
		}
		var raw strings.Builder
		if _, err := m.WriteTo(&raw); err != nil {
			t.Fatal(err)
		}
		return raw.String()
	}
	first := compose()
	for range 20 {
		if again := compose(); again != first {
			t.Fatalf("%s\n%s", first, again)
		}
	}
}
