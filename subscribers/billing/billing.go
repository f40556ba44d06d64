// Package billing issues an invoice per order, and credits the cars that shipping says are stopped or returned. It acts
// on the state of three feeds that arrive in any order: an order waits for its customer, a cancelled order for shipping.
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
	Text:       "issues an invoice per order, and credit notes for the cars that are stopped or returned, numbered without gaps",
	Migrations: sql.Migrations("billing"),
	Feeds: []subscribe.Feed{
		{
			Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders",
			Check: order.Check, Needs: orderPart.Needs, Apply: applyOrders,
		},
		{
			Name: customer.Feed, URL: "http://localhost:8081/feeds/customers", Schedule: "@every 5s", Table: "customer",
			Check: customer.Check, Needs: customerPart.Needs, Apply: applyCustomers,
		},
		{
			Name: shipment.Feed, URL: "http://localhost:8094/feeds/shipments", Schedule: "@every 5s", Table: "shipment",
			Check: shipment.Check, Needs: shipmentPart.Needs, Apply: applyShipments, Optional: true,
		},
	},
	Trace: func(ctx context.Context, s *subscriber.Site, id uuid.UUID) (trace.Part, error) {
		return traceOrder(ctx, s.DB, id)
	},
	Routes: func(s *subscriber.Site) {
		s.Page("/", "Invoices", page, func(r *http.Request) (any, error) { return overview(r, s.DB) })
		s.Page("/waiting", "Waiting", waitingPage, func(r *http.Request) (any, error) { return waitingOrders(r, s.DB, pageLimit) })
		s.JSON("/api/waiting", func(r *http.Request) (any, error) { return waitingOrders(r, s.DB, apiLimit) })
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
	waitingPage  = web.Template(pages, "waiting.html")
)

// lock serializes the feeds' transactions, and numbers the documents.
const lock = `select from last_number for update`

func applyOrders(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	var b pgx.Batch
	b.Queue(lock)
	batch.Queue(&b, `
		insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at)
		select id, version, status, customer_id, lines, total_cents, currency, placed_at
		  from jsonb_to_recordset($1) as o `+orderPart.Columns+`
		on conflict (id) do update set version = excluded.version, status = excluded.status, customer_id = excluded.customer_id, lines = excluded.lines,
		       total_cents = excluded.total_cents, currency = excluded.currency, placed_at = excluded.placed_at`)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	settle(&b, slices.Concat(batch.IDs(), batch.Deleted))
	return tx.SendBatch(ctx, &b).Close()
}

func applyCustomers(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	var b pgx.Batch
	b.Queue(lock)
	batch.Queue(&b, `
		insert into customer (id, version, name, street, postal_code, city, country)
		select c.id, c.version, c.name, a.street, a.postal_code, a.city, a.country
		  from jsonb_to_recordset($1) as c `+customerPart.Columns+`
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
	rows, _ := tx.Query(ctx, `
		select order_id from shipment where id = any($1) union select order_id from jsonb_to_recordset($2) as s (order_id uuid)`,
		slices.Concat(batch.IDs(), batch.Deleted), batch.JSON())
	orders, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	var b pgx.Batch
	batch.Queue(&b, `
		insert into shipment (id, version, order_id, car, status)
		select id, version, order_id, car, status from jsonb_to_recordset($1) as s `+shipmentPart.Columns+`
		on conflict (id) do update set version = excluded.version, order_id = excluded.order_id, car = excluded.car, status = excluded.status`)
	b.Queue(`delete from shipment where id = any($1)`, batch.Deleted)
	settle(&b, orders)
	return tx.SendBatch(ctx, &b).Close()
}

// settle credits and invoices the cars of these orders, as the copies say. A car is credited once it is stopped or
// returned, by the copy of shipments, whatever the order says: until then billing waits.
func settle(b *pgx.Batch, orders []uuid.UUID) {
	credit(b, orders)
	b.Queue(`
		update orders o set missing = found.cars
		  from (
			select id, case when status = $2 then cars_of(lines) - coalesce((select range_agg(r) from standing s cross join unnest(s.cars) as r where s.order_id = id), '{}')
			       - coalesce((select range_agg(int4range(car, car + 1)) from shipment s where s.order_id = orders.id and s.status in ($3, $4)), '{}') else '{}' end as cars
			  from orders where id = any($1)
		  ) as found
		 where o.id = found.id and o.missing <> found.cars`, orders, order.Placed, shipment.Stopped, shipment.Returned)
	invoiceOrders(b, orders, nil)
}

// vatPercent is the German rate, included in every price.
const vatPercent = 19

// issuedAt is the date of a new document, never before that of a lower number, even when the clock was set back.
const issuedAt = `greatest(statement_timestamp(), (select issued_at from document order by number desc limit 1))`

// invoiceOrders issues the missing invoices of the orders with the ids and of the customers' orders, if the customer is
// known. An invoice keeps a copy of all that it states.
func invoiceOrders(b *pgx.Batch, ids, customers []uuid.UUID) {
	b.Queue(`
		with due as (
			select o.*, cents_of(o.lines, o.missing) as cents, c.name, c.street, c.postal_code, c.city, c.country, row_number() over (order by o.placed_at, o.id) as n
			  from orders o join customer c on c.id = o.customer_id
			 where (o.id = any($1) or o.customer_id = any($2)) and not isempty(o.missing)
		), taken as (
			update last_number set number = number + due.count from (select count(*) from due) due where due.count > 0 returning number - due.count as last
		), issued as (
			insert into document (number, kind, issued_at, order_id, placed_at, customer_id, name, street, postal_code, city, country,
			       lines, cars, currency, total_cents, vat_percent, vat_cents)
			select last + n, $3, `+issuedAt+`, id, placed_at, customer_id, name, street, postal_code, city, country,
			       lines, missing, currency, cents, $4::int, `+vat("cents", "$4")+`
			  from due, taken
			returning order_id, number, cars
		), stands as (
			insert into standing (invoice, order_id, cars) select number, order_id, cars from issued
		)
		update orders set missing = '{}' from issued where id = issued.order_id`,
		ids, customers, invoice, vatPercent)
}

// vat returns SQL for the VAT that is included in a price.
func vat(cents, percent string) string {
	return "round(" + cents + " * " + percent + " / (100.0 + " + percent + "))"
}

// credit issues a credit note for each invoice of these orders of which cars are stopped or returned, or which states
// another order than there is now. The VAT of all credit notes of an invoice adds up to that of the invoice.
func credit(b *pgx.Batch, orders []uuid.UUID) {
	b.Queue(`
		with word as (
			select order_id, coalesce(range_agg(int4range(car, car + 1)) filter (where status = $2), '{}') as stopped,
			       coalesce(range_agg(int4range(car, car + 1)) filter (where status = $3), '{}') as returned
			  from shipment where order_id = any($1) and status in ($2, $3) group by order_id
		), found as (
			select i.*, s.cars as had, case when changed then s.cars else s.cars * (stopped + returned) end as gone,
			       case when changed then 'order changed' when isempty(s.cars * stopped) then 'returned'
			            when isempty(s.cars * returned) then 'not delivered' else 'not delivered or returned' end as why
			  from standing s join document i on i.number = s.invoice
			  left join orders o on o.id = s.order_id
			  left join word on word.order_id = s.order_id
			 cross join lateral (select coalesce(o.status = $4 and (o.customer_id, o.lines, o.currency) is distinct from (i.customer_id, i.lines, i.currency), false)) as c (changed)
			 where s.order_id = any($1)
		), due as (
			select *, cents_of(lines, had) as before, cents_of(lines, had - gone) as after, row_number() over (order by number) as n
			  from found where not isempty(gone)
		), taken as (
			update last_number set number = number + due.count from (select count(*) from due) due where due.count > 0 returning number - due.count as last
		), kept as (
			update standing set cars = had - gone from due where invoice = number and had <> gone
		), cleared as (
			delete from standing using due where invoice = number and had = gone
		)
		insert into document (number, kind, credits, reason, issued_at, order_id, placed_at, customer_id, name, street, postal_code, city, country,
		       lines, cars, currency, total_cents, vat_percent, vat_cents)
		select last + n, $5, number, why, `+issuedAt+`, order_id, placed_at, customer_id, name, street, postal_code, city, country,
		       lines, gone, currency, before - after, vat_percent, `+vat("before", "vat_percent")+` - `+vat("after", "vat_percent")+`
		  from due, taken`,
		orders, shipment.Stopped, shipment.Returned, order.Placed, creditNote)
}
