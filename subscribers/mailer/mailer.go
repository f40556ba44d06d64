// Package mailer sends an e-mail confirmation of every order, once.
package mailer

import (
	"context"
	"embed"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

type settings struct {
	smtp.Settings
	Limit   uint16      `env:"MAIL_LIMIT" envDefault:"5" help:"mails to one address per hour; further ones wait; 0 is no limit"`
	TextAge service.Age `env:"MAIL_TEXT_AGE" envDefault:"2160h" help:"how long the text and the recipient of a mail, and what the mail server said of it, are kept, at least 1h"`
}

const name = "mailer"

// Service returns the mailer service.
func Service() *subscriber.Service {
	set := new(settings)
	o := newOutbox(set)
	return &subscriber.Service{
		Name: name, Title: "Mailer", Addr: "127.0.0.1:8095",
		Text:       "sends a confirmation of every order by e-mail",
		Migrations: sql.Migrations("mailer"),
		Settings:   set,
		Feeds: []subscribe.Feed{
			{
				Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders",
				Check: order.Check, Needs: orderPart.Needs, Past: true, Apply: applyOrders,
			},
			{
				Name: customer.Feed, URL: "http://localhost:8081" + customer.ContactPath, Schedule: "@every 5s", Table: "customers",
				Check: customer.CheckContact, Needs: customerPart.Needs, Apply: applyCustomers,
				Kept: `exists (select from mail where customer_id = e.id and coalesce(recipient, recipient_name, body) is not null)`,
			},
		},
		Work: func(ctx context.Context, s *subscriber.Site) error {
			o.db = s.DB
			return o.work(ctx)
		},
		WorkTimeout: oneMail + 5*time.Minute,
		Current:     &o.current,
		Trace: func(ctx context.Context, s *subscriber.Site, id uuid.UUID) (trace.Part, error) {
			return traceOrder(ctx, s.DB, id)
		},
		Routes: func(s *subscriber.Site) {
			s.Page("/", "Confirmations", overviewPage, func(r *http.Request) (any, error) {
				return readOverview(r, s.DB, set, o.outage.now(), o.current.Behind())
			})
			s.Page("/mails/:order_id", "Confirmation", mailPage, func(r *http.Request) (any, error) {
				return readMail(r.Context(), s.DB, r.PathValue("order_id"))
			})
			s.JSON("/api/mails", func(r *http.Request) (any, error) { return readMails(r, s.DB) })
		},
	}
}

//go:embed *.html *.txt
var pages embed.FS

var (
	overviewPage = web.Template(pages, "mailer.html")
	mailPage     = web.Template(pages, "mail.html")
)

// outboxLock is taken by every transaction that changes the outbox. The two feeds are applied at the same time, and
// each of them, and the sender, must see the changes of the others.
const outboxLock = `select pg_advisory_xact_lock(7236833)`

// settle sets the state of the unsent mails of these orders and customers.
const settle = `
	update mail set state = s.state from (
		select m.order_id, case when o.id is null or d.id is not null then 'withdrawn' when o.status = 'placed' then 'pending' else 'cancelled' end
		  from mail m left join orders o on o.id = m.order_id left join deleted_customer d on d.id = m.customer_id
		 where (m.order_id = any($1) or m.customer_id = any($2)) and m.state in ('pending', 'cancelled', 'withdrawn')
	) as s (order_id, state)
	 where mail.order_id = s.order_id and mail.state <> s.state`

func applyOrders(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	ids := batch.IDs()
	past := make([]uuid.UUID, 0, len(batch.Entities))
	for _, e := range batch.Entities {
		if batch.IsPast(e) {
			past = append(past, e.ID)
		}
	}
	var b pgx.Batch
	b.Queue(outboxLock)
	batch.Queue(&b, `
		insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at)
		select id, version, status, customer_id, lines, total_cents, currency, placed_at from jsonb_to_recordset($1) as o `+orderPart.Columns+`
		on conflict (id) do update set version = excluded.version, status = excluded.status, customer_id = excluded.customer_id,
		       lines = excluded.lines, total_cents = excluded.total_cents, currency = excluded.currency, placed_at = excluded.placed_at`)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	b.Queue(`
		insert into mail (order_id, customer_id, placed_at, state)
		select id, customer_id, placed_at, case when id = any($2) then 'skipped' else 'pending' end from orders where id = any($1)
		on conflict (order_id) do nothing`, ids, past)
	b.Queue(settle, append(ids, batch.Deleted...), nil)
	return tx.SendBatch(ctx, &b).Close()
}

// applyCustomers deletes what is stored of customers that deleted their account. If a customer has a new address, it
// gets the mails that the old one refused.
func applyCustomers(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	ids := batch.IDs()
	var b pgx.Batch
	b.Queue(outboxLock)
	batch.Queue(&b, `
		insert into customers (id, version, name, email, email_confirmed)
		select id, version, name, email, coalesce(email_confirmed, false) from jsonb_to_recordset($1) as c `+customerPart.Columns+`
		on conflict (id) do update set version = excluded.version, name = excluded.name, email = excluded.email,
		       email_confirmed = excluded.email_confirmed`)
	b.Queue(`delete from deleted_customer where id = any($1)`, ids)
	b.Queue(`delete from customers where id = any($1)`, batch.Deleted)
	b.Queue(`insert into deleted_customer select unnest($1::uuid[]) on conflict do nothing`, batch.Deleted)
	b.Queue(`update mail set recipient = null, recipient_name = null, body = null, reason = '' where customer_id = any($1)`, batch.Deleted)
	b.Queue(`
		update mail set state = 'pending', due_at = now() from customers c
		 where c.id = any($1) and mail.customer_id = c.id and mail.state = 'failed' and mail.recipient <> c.email`, ids)
	b.Queue(settle, nil, append(ids, batch.Deleted...))
	return tx.SendBatch(ctx, &b).Close()
}
