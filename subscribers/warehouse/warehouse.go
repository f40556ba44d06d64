// Package warehouse reserves the parts of every ordered car, and orders new pieces when too few are left.
package warehouse

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

// Service is the warehouse.
var Service = &subscribe.Service{
	Name: "warehouse", Title: "Warehouse", Addr: "127.0.0.1:8090",
	Text:       "reserves parts by bill of materials, orders new pieces below the reorder point",
	Migrations: sql.Migrations("warehouse"),
	Feeds: []subscribe.Feed{
		{Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders", Apply: apply},
	},
	Routes: func(s *subscribe.Site) {
		s.Page("/", "Parts", page, func(r *http.Request) (any, error) { return overview(r.Context(), s.DB) })
		s.JSON("/api/parts", func(r *http.Request) (any, error) { return parts(r.Context(), s.DB) })
	},
}

//go:embed *.html
var pages embed.FS

var page = web.Template(pages, "warehouse.html")

// apply replaces the reservations of the orders that changed, then orders what has become short.
func apply(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	entities, ids := batch.JSON(), batch.IDs()
	var b pgx.Batch
	b.Queue(`
		insert into orders (id, version, status)
		select id, version, status from jsonb_to_recordset($1) as o (id uuid, version bigint, status text)
		on conflict (id) do update set version = excluded.version, status = excluded.status`, entities)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	b.Queue(`
		with released as (
			delete from reservation where order_id = any($1) or order_id = any($2) returning part, quantity
		), total as (
			select part, sum(quantity) as quantity from released group by part
		)
		update part set reserved = reserved - total.quantity from total where part.part = total.part`, ids, batch.Deleted)
	b.Queue(`
		with reserved as (
			insert into reservation (order_id, part, quantity)
			select o.id, bom.part, sum(l.quantity * bom.quantity)
			  from jsonb_to_recordset($1) as o (id uuid, status text, lines jsonb)
			 cross join jsonb_to_recordset(o.lines) as l (model text, options jsonb, quantity bigint)
			 cross join lateral (select l.model union all select jsonb_array_elements_text(l.options)) as of (item)
			  join bill_of_materials bom on bom.item = of.item
			 where o.status = $2
			 group by o.id, bom.part
			returning part, quantity
		), total as (
			select part, sum(quantity) as quantity from reserved group by part
		)
		update part set reserved = reserved + total.quantity from total where part.part = total.part`,
		entities, order.Placed)
	b.Queue(`
		with short as (
			select part, ceil((reorder_point - (on_hand + on_order - reserved))::numeric / lot) * lot as quantity
			  from part where on_hand + on_order - reserved < reorder_point
		), purchased as (
			insert into purchase (part, number, quantity)
			select part, (select count(*) + 1 from purchase p where p.part = short.part), quantity from short
			returning part, quantity
		)
		update part set on_order = on_order + purchased.quantity from purchased where part.part = purchased.part`)
	return tx.SendBatch(ctx, &b).Close()
}
