package mailer

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/web"
)

// read returns what a mail program makes of the one mail for order 1.
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
		"Subject": "Your order " + web.Short(orderID(1)) + " at Edison Cars", "Return-Path": "<orders@edison-cars.example>",
	} {
		if got := header.Get(field); got != want {
			t.Errorf("%s: %s", field, got)
		}
	}
	if kind, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || kind != "multipart/alternative" {
		t.Errorf("%s, %v", kind, err)
	}
	want := `Dear Zoë Müller 1,

thank you for your order. Here are its details:

2 x Edison Volta with heat pump, long range
    €27,970.00 each, €55,940.00 in all

Total: €55,940.00

Order number: ` + orderID(1).String() + `
Placed on 23 November 2026 at 12:00 UTC

Your Edison Cars team

This is an automatic message. Please do not reply.
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
	pgtest.Slow(t, "many databases")
	for _, name := range []string{`Eve" <eve>, "Zoë`, "<script>alert(1)</script>", "=?utf-8?q?Eve?=", strings.Repeat("Zoë von und zu ", 40), "名前", "{{.}}", ". ."} {
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
			if !strings.HasPrefix(text, "Dear ") || !strings.Contains(text, "This is an automatic message") || strings.Contains(html, "<script") {
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

// No mail says the name of a customer whose address may be a stranger's, nor a name that is no plain one.
func TestWithoutName(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	unconfirmed := func(c *customer.Customer) { c.EmailConfirmed = false }
	called := func(name string) func(*customer.Customer) { return func(c *customer.Customer) { c.Name = name } }
	for name, edit := range map[string]func(*customer.Customer){
		"not confirmed":     unconfirmed,
		"a link":            called("Win https://evil.example/x"),
		"a domain":          called("evil.example/x"),
		"an address":        called("Eve <eve@evil.example>"),
		"line breaks":       called("Eve\r\nBcc: eve@mail.example\r\n\r\nbuy this"),
		"the end of a mail": called(".\r\n.\r\n"),
		"another direction": called("\u202eeve"),
		"control":           called("\x01\x7f\t"),
		"nothing seen":      called("\u200b\u3164"),
		"blank":             called(" "),
		"empty":             called(""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			c := aCustomer(1, 1)
			edit(&c)
			b.customers(t, customerEntry(t, c))
			b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
			b.mustWork(t)
			m := b.want(t, 1, "sent", 1)
			header, text, html := b.read(t)
			if to := header.Get("To"); to != "<"+email(1)+">" || len(header) != 11 {
				t.Errorf("to %q, %d fields", to, len(header))
			}
			if !strings.HasPrefix(text, "Hello,\n") || !strings.Contains(html, "<p>Hello,</p>") {
				t.Errorf("%s\n%s", text, html)
			}
			if raw := string(arrivals(b.sink, 1)[0].Raw); strings.Contains(strings.ToLower(raw), "evil") || strings.Contains(raw, "Zo") || strings.Contains(raw, "=E2=80") {
				t.Error(raw)
			}
			if m.Name != nil {
				t.Errorf("the outbox has %q", *m.Name)
			}
		})
	}
	t.Run("a source that knows no confirmation", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		for n, member := range []string{"", `"email_confirmed": null,`, `"email_confirmed": true,`} {
			b.customers(t, feed.Entry{ID: customerID(n), Version: 1, Entity: fmt.Appendf(nil, `{%s "id": "%s", "version": 1, "name": "Ada", "email": "%s"}`, member, customerID(n), email(n))})
			b.orders(t, orderEntry(t, int64(n+1), n, 1, order.Placed))
		}
		b.mustWork(t)
		for n, greeting := range []string{"Hello,", "Hello,", "Dear Ada,"} {
			if m := b.want(t, n, "sent", 1); !strings.HasPrefix(*m.Body, greeting) {
				t.Errorf("%d: %s", n, *m.Body)
			}
		}
	})
	t.Run("an address that is no longer confirmed while the mail goes out", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.add(t, 1, email(1))
		due, err := b.due(t.Context())
		if err != nil || len(due) != 1 {
			t.Fatal(due, err)
		}
		c := aCustomer(1, 2)
		c.EmailConfirmed = false
		b.customers(t, customerEntry(t, c))
		if err := b.begin(t.Context(), due[0]); !errors.Is(err, errOutdated) {
			t.Errorf("%v", err)
		}
		b.mustWork(t)
		if m := b.want(t, 1, "sent", 1); !strings.HasPrefix(*m.Body, "Hello,") {
			t.Errorf("%s", *m.Body)
		}
	})
}

func TestComposeIsStable(t *testing.T) {
	t.Parallel()
	compose := func() string {
		c := confirmation{
			OrderID: uuid.Max, ComposedAt: noon, name: "Zoë", email: "zoe@mail.example", confirmed: true, Currency: "EUR", PlacedAt: noon,
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
