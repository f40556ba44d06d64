// Package dashboard keeps statistics: revenue, orders, cars and lead times.
package dashboard

import (
	"context"
	"embed"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// Service is the dashboard service.
var Service = &subscriber.Service{
	Name: "dashboard", Title: "Dashboard", Addr: "127.0.0.1:8092",
	Text:       "statistics: revenue, orders and cars by day, model and option, and how long they take",
	Migrations: sql.Migrations("dashboard"),
	Feeds: []subscribe.Feed{
		{
			Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders",
			Check: order.Check, Apply: applyOrders,
		},
		{
			Name: carbuild.Feed, URL: "http://localhost:8091/feeds/builds", Schedule: "@every 5s", Table: "build",
			Check: carbuild.Check, Apply: applyBuilds, Optional: true,
		},
		{
			Name: shipment.Feed, URL: "http://localhost:8094/feeds/shipments", Schedule: "@every 5s", Table: "shipment",
			Check: shipment.Check, Apply: applyShipments, Optional: true,
		},
	},
	Routes: func(s *subscriber.Site) {
		query := func(r *http.Request) (any, error) { return stats(r, s.DB) }
		s.Page("/", "Sales", page, query)
		s.JSON("/api/stats", query)
		s.CSV("/orders.csv", ordersCSV(s.DB))
	},
}

//go:embed *.html
var pages embed.FS

var page = web.Template(pages, "dashboard.html")

// applyOrders replaces the orders that changed, and their lines.
func applyOrders(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	return recount(ctx, tx, append(batch.IDs(), batch.Deleted...), func(b *pgx.Batch) {
		batch.Queue(b, `
			insert into orders (id, version, status, placed_at, total_cents)
			select id, version, status, placed_at, total_cents
			  from jsonb_to_recordset($1) as o (id uuid, version bigint, status text, placed_at timestamptz, total_cents bigint)
			on conflict (id) do update set version = excluded.version, status = excluded.status,
			       placed_at = excluded.placed_at, total_cents = excluded.total_cents`)
		b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
		b.Queue(`delete from order_line where order_id = any($1)`, batch.IDs())
		batch.Queue(b, `
			insert into order_line (order_id, line, model, options, quantity, unit_price_cents)
			select o.id, l.line, l.model, coalesce(l.options, '{}'), l.quantity, l.unit_price_cents
			  from jsonb_to_recordset($1) as o (id uuid, lines jsonb)
			 cross join rows from (jsonb_to_recordset(o.lines) as (model text, options text[], quantity bigint, unit_price_cents bigint))
			       with ordinality as l (model, options, quantity, unit_price_cents, line)`)
	})
}

var applyBuilds = applyTo("build", `
	insert into build (id, version, order_id, car, status, finished_at)
	select id, version, order_id, car, status, finished_at
	  from jsonb_to_recordset($1) as b (id uuid, version bigint, order_id uuid, car int, status text, finished_at timestamptz)
	on conflict (id) do update set version = excluded.version, order_id = excluded.order_id, car = excluded.car,
	       status = excluded.status, finished_at = excluded.finished_at`)

var applyShipments = applyTo("shipment", `
	insert into shipment (id, version, order_id, car, status, shipped_at)
	select id, version, order_id, car, status, shipped_at
	  from jsonb_to_recordset($1) as s (id uuid, version bigint, order_id uuid, car int, status text, shipped_at timestamptz)
	on conflict (id) do update set version = excluded.version, order_id = excluded.order_id, car = excluded.car,
	       status = excluded.status, shipped_at = excluded.shipped_at`)

// applyTo applies entities, each of an order, to a table by the statement.
func applyTo(table, statement string) func(context.Context, pgx.Tx, *subscribe.Batch) error {
	return func(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
		ids, err := ordersOf(ctx, tx, batch, `select order_id from `+table+` where id = any($2)`)
		if err != nil {
			return err
		}
		return recount(ctx, tx, ids, func(b *pgx.Batch) {
			batch.Queue(b, statement)
			b.Queue(`delete from `+table+` where id = any($1)`, batch.Deleted)
		})
	}
}

// ordersOf returns the orders that the batch affects. The query before selects those of the present rows.
func ordersOf(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch, before string) ([]uuid.UUID, error) {
	rows, _ := tx.Query(ctx, `select order_id from jsonb_to_recordset($1) as e (order_id uuid) union `+before,
		batch.JSON(), append(batch.IDs(), batch.Deleted...))
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}
