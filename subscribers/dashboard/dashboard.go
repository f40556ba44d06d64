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
			Check: order.Check, Needs: orderPart.Needs, Apply: applyOrders,
		},
		{
			Name: carbuild.Feed, URL: "http://localhost:8091/feeds/builds", Schedule: "@every 5s", Table: "build",
			Check: carbuild.Check, Needs: buildPart.Needs, Apply: applyBuilds, Optional: true,
		},
		{
			Name: shipment.Feed, URL: "http://localhost:8094/feeds/shipments", Schedule: "@every 5s", Table: "shipment",
			Check: shipment.Check, Needs: shipmentPart.Needs, Apply: applyShipments, Optional: true,
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

func applyOrders(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	return recount(ctx, tx, append(batch.IDs(), batch.Deleted...), func() error {
		return batch.Upsert(ctx, tx, "orders", "status", "placed_at", "total_cents", "lines")
	})
}

func applyBuilds(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	return applyCars(ctx, tx, batch, "build", "order_id", "car", "status", "finished_at")
}

func applyShipments(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
	return applyCars(ctx, tx, batch, "shipment", "order_id", "car", "status", "shipped_at")
}

// applyCars applies entities, each of a car of an order, to a table.
func applyCars(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch, table string, columns ...string) error {
	rows, _ := tx.Query(ctx, `
		select order_id from jsonb_to_recordset($1) as e (order_id uuid)
		 union select order_id from `+table+` where id = any($2)`, batch.JSON(), append(batch.IDs(), batch.Deleted...))
	orders, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	return recount(ctx, tx, orders, func() error { return batch.Upsert(ctx, tx, table, columns...) })
}
