// Package billing issues an invoice per order, and a credit note when the cars of a cancelled order did not leave or
// came back. It acts on the state of three feeds that arrive in any order: an order waits for its customer.
package billing

import (
	"context"
	"embed"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// Service is the billing service.
var Service = &subscriber.Service{
	Name: "billing", Title: "Billing", Addr: "127.0.0.1:8093",
	Text:       "issues an invoice per order, and a credit note once a cancelled order did not leave or came back, numbered without gaps",
	Migrations: sql.Migrations("billing"),
	Feeds: []subscribe.Feed{
		{
			Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders",
			Check: order.Check, Apply: applyOrders,
		},
		{
			Name: customer.Feed, URL: "http://localhost:8081/feeds/customers", Schedule: "@every 5s", Table: "customer",
			Check: customer.Check, Apply: applyCustomers,
		},
		{
			Name: shipment.Feed, URL: "http://localhost:8094/feeds/shipments", Schedule: "@every 5s", Table: "shipment",
			Check: shipment.Check, Apply: applyShipments, Optional: true,
		},
	},
	Trace: func(ctx context.Context, s *subscriber.Site, id uuid.UUID) (trace.Part, error) {
		return traceOrder(ctx, s.DB, id)
	},
	Routes: func(s *subscriber.Site) {
		s.Page("/", "Invoices", page, func(r *http.Request) (any, error) { return overview(r, s.DB) })
		s.Page("/invoices/:number", "Invoice", documentPage, func(r *http.Request) (any, error) { return readDocument(r, s.DB, invoice) })
		s.Page("/credit-notes/:number", "Credit note", documentPage, func(r *http.Request) (any, error) { return readDocument(r, s.DB, creditNote) })
		s.JSON("/api/invoices", func(r *http.Request) (any, error) { return listDocuments(r, s.DB, apiLimit) })
	},
}

//go:embed *.html
var pages embed.FS

var (
	page         = web.Template(pages, "billing.html")
	documentPage = web.Template(pages, "document.html")
)

// lock serializes the feeds' transactions, and numbers the documents.
const lock = `select from last_number for update`

func applyOrders(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	var b pgx.Batch
	b.Queue(lock)
	batch.Queue(&b, `
		insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at)
		select id, version, status, customer_id, lines, total_cents, currency, placed_at
		  from jsonb_to_recordset($1) as o (id uuid, version bigint, status text, customer_id uuid, lines jsonb, total_cents bigint, currency text, placed_at timestamptz)
		on conflict (id) do update set version = excluded.version, status = excluded.status, customer_id = excluded.customer_id, lines = excluded.lines,
		       total_cents = excluded.total_cents, currency = excluded.currency, placed_at = excluded.placed_at`)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	b.Queue(`
		update orders o set invoice = i.number from document i
		 where o.id = any($1) and o.invoice is null and i.order_id = o.id and i.kind = $2
		   and not exists (select from document c where c.credits = i.number)`, batch.IDs(), invoice) // of an order that is no longer cancelled
	credit(&b, slices.Concat(batch.IDs(), batch.Deleted))
	invoiceOrders(&b, batch.IDs(), nil)
	return tx.SendBatch(ctx, &b).Close()
}

func applyCustomers(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	var b pgx.Batch
	b.Queue(lock)
	batch.Queue(&b, `
		insert into customer (id, version, name, street, postal_code, city, country)
		select c.id, c.version, c.name, a.street, a.postal_code, a.city, a.country
		  from jsonb_to_recordset($1) as c (id uuid, version bigint, name text, address jsonb)
		 cross join jsonb_to_record(c.address) as a (street text, postal_code text, city text, country text)
		on conflict (id) do update set version = excluded.version, name = excluded.name, street = excluded.street,
		       postal_code = excluded.postal_code, city = excluded.city, country = excluded.country`)
	b.Queue(`delete from customer where id = any($1)`, batch.Deleted)
	b.Queue(`insert into deleted_customer select unnest($1::uuid[]) on conflict do nothing`, batch.Deleted)
	invoiceOrders(&b, nil, batch.IDs())
	return tx.SendBatch(ctx, &b).Close()
}

func applyShipments(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	if _, err := tx.Exec(ctx, lock); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `select distinct order_id from shipment where id = any($1)`, slices.Concat(batch.IDs(), batch.Deleted))
	if err != nil {
		return err
	}
	before, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID]) // their orders' cars may have come back
	if err != nil {
		return err
	}
	var b pgx.Batch
	batch.Queue(&b, `
		insert into shipment (id, version, order_id, status)
		select id, version, order_id, status from jsonb_to_recordset($1) as s (id uuid, version bigint, order_id uuid, status text)
		on conflict (id) do update set version = excluded.version, order_id = excluded.order_id, status = excluded.status`)
	b.Queue(`delete from shipment where id = any($1)`, batch.Deleted)
	credit(&b, before)
	return tx.SendBatch(ctx, &b).Close()
}

// vatPercent is the German rate, included in every price.
const vatPercent = 19

// issuedAt is the date of a new document, never before that of a lower number, even when the clock was set back.
const issuedAt = `greatest(statement_timestamp(), (select issued_at from document order by number desc limit 1))`

// invoiceOrders issues the missing invoices of the orders with the ids and of the customers' orders, for orders that
// are not cancelled and whose customer is known. An invoice keeps a copy of all that it states.
func invoiceOrders(b *pgx.Batch, ids, customers []uuid.UUID) {
	b.Queue(`
		with due as (
			select o.*, c.name, c.street, c.postal_code, c.city, c.country, row_number() over (order by o.placed_at, o.id) as n
			  from orders o join customer c on c.id = o.customer_id
			 where (o.id = any($1) or o.customer_id = any($2)) and o.status = $3 and o.invoice is null
		), taken as (
			update last_number set number = number + due.count from (select count(*) from due) due where due.count > 0 returning number - due.count as last
		), issued as (
			insert into document (number, kind, issued_at, order_id, placed_at, customer_id, name, street, postal_code, city, country,
			       lines, currency, total_cents, vat_percent, vat_cents)
			select last + n, $4, `+issuedAt+`, id, placed_at, customer_id, name, street, postal_code, city, country,
			       lines, currency, total_cents, $5::int, round(total_cents * $5 / (100.0 + $5))
			  from due, taken
			returning order_id, number
		)
		update orders set invoice = issued.number from issued where id = issued.order_id`,
		ids, customers, order.Placed, invoice, vatPercent)
}

// credit issues a credit note for the invoice of each of these orders that was cancelled or changed. While a car of the
// order is out, by the copy of shipments, the invoice stays: the credit note follows when the car is back.
func credit(b *pgx.Batch, orders []uuid.UUID) {
	b.Queue(`
		with due as (
			select i.*, case when o.id is null then 'order withdrawn' when o.status = $2 then 'order changed' else 'order cancelled' end as why,
			       row_number() over (order by i.number) as n
			  from document i left join orders o on o.id = i.order_id
			 where i.order_id = any($1) and i.kind = $3 and not exists (select from document c where c.credits = i.number)
			   and case when o.status = $2
			       then (o.customer_id, o.lines, o.total_cents, o.currency) is distinct from (i.customer_id, i.lines, i.total_cents, i.currency)
			       else not exists (select from shipment s where s.order_id = i.order_id and s.status = $5) end
		), taken as (
			update last_number set number = number + due.count from (select count(*) from due) due where due.count > 0 returning number - due.count as last
		), cleared as (
			update orders set invoice = null from due where orders.id = due.order_id
		)
		insert into document (number, kind, credits, reason, issued_at, order_id, placed_at, customer_id, name, street, postal_code, city, country,
		       lines, currency, total_cents, vat_percent, vat_cents)
		select last + n, $4, number, why, `+issuedAt+`, order_id, placed_at, customer_id, name, street, postal_code, city, country,
		       lines, currency, total_cents, vat_percent, vat_cents
		  from due, taken`,
		orders, order.Placed, invoice, creditNote, shipment.Shipped)
}
