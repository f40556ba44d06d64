package mailer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"net/mail"
	texttemplate "text/template"
	"time"

	"github.com/google/uuid"
	gomail "github.com/wneessen/go-mail"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/web"
)

type confirmation struct {
	OrderID    uuid.UUID
	CustomerID uuid.UUID
	attempts   int // so far
	uncertain  int // attempts that ended without a reply
	ComposedAt time.Time
	old        bool // it was composed more than giveUp ago
	name       string
	email      string
	confirmed  bool   // the e-mail address
	mailbox    []byte // a hash of it
	LinesJSON  json.RawMessage
	Lines      []line
	TotalCents int64
	Currency   string
	PlacedAt   time.Time

	text string
}

type line struct{ order.Line }

// Car describes the car by its codes: the feed does not have the catalogue.
func (l line) Car() string { return "Edison " + order.CarName(l.Model, l.Options...) }

// Name returns the customer's name, or "" if the mail must not contain it: the address may be a stranger's, or the name
// a link.
func (c *confirmation) Name() string {
	if !c.confirmed || customer.CheckName(c.name) != nil {
		return ""
	}
	return c.name
}

// Short returns the end of the order's id, enough to refer to it.
func (c *confirmation) Short() string { return web.Short(c.OrderID) }

func (c *confirmation) Subject() string { return "Your order " + c.Short() + " at Edison Cars" }

// messageID returns the same Message-ID for every attempt to confirm the order.
func messageID(orderID uuid.UUID) string {
	return "order-" + orderID.String() + ".confirmation@edison-cars.example"
}

var (
	confirmationText = texttemplate.Must(texttemplate.New("confirmation.txt").Funcs(texttemplate.FuncMap{"money": web.Money}).ParseFS(pages, "confirmation.txt"))
	confirmationHTML = template.Must(template.New("confirmation.html").Funcs(web.Functions()).ParseFS(pages, "confirmation.html"))
)

// compose writes the mail (RFC 5322). Order, customer and sender determine its bytes. It returns an error if the
// address is invalid.
func (c *confirmation) compose(from *smtp.Sender) (*gomail.Msg, error) {
	to, err := smtp.Address(c.email)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(c.LinesJSON, &c.Lines); err != nil {
		return nil, fmt.Errorf("read the lines of order %s: %w", c.OrderID, err)
	}
	var text, html bytes.Buffer
	if err := confirmationText.Execute(&text, c); err != nil {
		return nil, err
	}
	if err := confirmationHTML.Execute(&html, c); err != nil {
		return nil, err
	}
	c.text = text.String()
	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent(), gomail.WithBoundary("edison-"+c.OrderID.String()))
	m.FromMailAddress((*mail.Address)(from))
	m.ToMailAddress(&mail.Address{Name: c.Name(), Address: to})
	m.Subject(c.Subject())
	m.SetDateWithValue(c.ComposedAt)
	m.SetMessageIDWithValue(messageID(c.OrderID))
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834 section 5
	m.SetBodyString(gomail.TypeTextPlain, c.text)
	m.AddAlternativeString(gomail.TypeTextHTML, html.String())
	return m, nil
}
