// Package dashboard keeps the statistics: revenue, orders and cars, by model and by day.
package dashboard

import (
	"context"
	"embed"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// Service is the dashboard.
var Service = &subscribe.Service{
	Name: "dashboard", Title: "Dashboard", Addr: "127.0.0.1:8092",
	Text:       "statistics: revenue, orders and cars by model and by day",
	Migrations: sql.Migrations("dashboard"),
	Feeds: []subscribe.Feed{
		{Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders", Apply: apply},
	},
	Routes: func(s *subscribe.Site) {
		query := func(r *http.Request) (any, error) { return stats(r.Context(), s.DB) }
		s.Page("/", "Sales", page, query)
		s.JSON("/api/stats", query)
	},
}

//go:embed *.html
var pages embed.FS

var page = web.Template(pages, "dashboard.html")

// apply replaces the orders that changed and their lines.
func apply(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	entities := batch.JSON()
	var b pgx.Batch
	b.Queue(`
		insert into orders (id, version, status, placed_at, total_cents)
		select id, version, status, placed_at, total_cents
		  from jsonb_to_recordset($1) as o (id uuid, version bigint, status text, placed_at timestamptz, total_cents bigint)
		on conflict (id) do update set version = excluded.version, status = excluded.status,
		       placed_at = excluded.placed_at, total_cents = excluded.total_cents`, entities)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	b.Queue(`delete from order_line where order_id = any($1)`, batch.IDs())
	b.Queue(`
		insert into order_line (order_id, line, model, quantity, unit_price_cents)
		select o.id, l.line, l.model, l.quantity, l.unit_price_cents
		  from jsonb_to_recordset($1) as o (id uuid, lines jsonb)
		 cross join rows from (jsonb_to_recordset(o.lines) as (model text, quantity bigint, unit_price_cents bigint))
		       with ordinality as l (model, quantity, unit_price_cents, line)`, entities)
	return tx.SendBatch(ctx, &b).Close()
}
