// Package shipping sends every finished car to its customer, at the address that is known when the car is ready. Of an
// order that is cancelled it decides for each car whether it still leaves, and publishes that.
package shipping

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

type settings struct {
	Pickup time.Duration `env:"PICKUP" envDefault:"10s" help:"how long a car is ready before the truck picks it up"`
}

const name = "shipping"

// Service returns the shipping service.
func Service() *subscriber.Service {
	set := new(settings)
	current := &subscribe.Current{Service: name, Feeds: []string{carbuild.Feed, customer.Feed, order.Feed}}
	return &subscriber.Service{
		Name: name, Title: "Shipping", Addr: "127.0.0.1:8094",
		Text:       "ships each finished car to its customer, unless its order is cancelled first, publishes shipments",
		Migrations: sql.Migrations("shipping"),
		Settings:   set,
		Feeds: []subscribe.Feed{
			{
				Name: carbuild.Feed, URL: "http://localhost:8091/feeds/builds", Schedule: "@every 5s", Table: "build",
				Check: carbuild.Check, Needs: buildPart.Needs, Apply: subscribe.Publishing(applyBuilds),
			},
			{
				Name: customer.Feed, URL: "http://localhost:8081" + customer.DeliveryPath, Schedule: "@every 5s", Table: "customer",
				Check: customer.CheckDelivery, Needs: customerPart.Needs, Apply: subscribe.Publishing(applyCustomers),
				Kept: `exists (select from shipment where customer_id = e.id and name is not null)`,
			},
			{
				Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders",
				Check: order.Check, Needs: orderPart.Needs, Apply: subscribe.Publishing(applyOrders),
			},
		},
		Publishes: func(publicURL string) []feed.Description { return []feed.Description{shipmentsFeed(publicURL)} },
		Work: func(ctx context.Context, s *subscriber.Site) error {
			return pickUp(ctx, s.Log, current, set.Pickup)
		},
		Current: current,
		Trace: func(ctx context.Context, s *subscriber.Site, id uuid.UUID) (trace.Part, error) {
			return traceOrder(ctx, s.DB, id)
		},
		Routes: func(s *subscriber.Site) {
			s.Page("/", "Shipments", page, func(r *http.Request) (any, error) {
				stages, err := overview(r.Context(), s.DB)
				return shown{current.Behind(), stages}, err
			})
			s.Page("/shipments", "All shipments", shipmentsPage, func(r *http.Request) (any, error) {
				found, err := list(r, s.DB, pageLimit)
				return shipmentList{found, r.URL.Query().Get("status"), statuses}, err
			})
			s.Page("/shipments/:id", "Shipment", labelPage, func(r *http.Request) (any, error) { return readLabel(r, s.DB) })
			s.Action("/shipments/:id/return", func(r *http.Request) (any, string, error) { return recordReturn(r, s) })
			s.JSON("/api/shipments", func(r *http.Request) (any, error) { return list(r, s.DB, apiLimit) })
		},
	}
}

//go:embed *.html
var pages embed.FS

var (
	page          = web.Template(pages, "shipping.html")
	labelPage     = web.Template(pages, "label.html")
	shipmentsPage = web.Template(pages, "shipments.html")
)

// lock serializes the transactions of the feeds and of the pick-up, so that a build and its customer that arrive at the
// same time find each other.
const lock = `select pg_advisory_xact_lock(hashtext('shipment'))`

func applyBuilds(ctx context.Context, tx *publish.Tx, batch *subscribe.Batch) error {
	ids := batch.IDs()
	shipments := make([]uuid.UUID, len(ids))
	for i, e := range batch.Entities {
		var b buildRead
		if err := json.Unmarshal(e.Entity, &b); err != nil {
			return fmt.Errorf("read build %s: %w", e.ID, err)
		}
		shipments[i] = shipmentID(b.OrderID, b.Car)
	}
	if _, err := tx.Exec(ctx, lock); err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, `
		select order_id from build where id = any($1) union select order_id from jsonb_to_recordset($2) as b (order_id uuid)`,
		slices.Concat(ids, batch.Deleted), batch.JSON())
	orders, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	var b pgx.Batch
	batch.Queue(&b, `
		insert into build (id, version, status, order_id, customer_id, car, model)
		select id, version, status, order_id, customer_id, car, model
		  from jsonb_to_recordset($1) as b `+buildPart.Columns+`
		on conflict (id) do update set version = excluded.version, status = excluded.status, order_id = excluded.order_id,
		       customer_id = excluded.customer_id, car = excluded.car, model = excluded.model`)
	b.Queue(`delete from build where id = any($1)`, batch.Deleted)
	b.Queue(`
		insert into shipment (id, version, status, order_id, customer_id, car, model)
		select s.id, 0, $4, b.order_id, b.customer_id, b.car, b.model
		  from unnest($1::uuid[], $2::uuid[]) as s (id, build_id) join build b on b.id = s.build_id where b.status = $3
		on conflict do nothing`, shipments, ids, carbuild.Finished, shipment.Waiting)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return settle(ctx, tx, nil, orders)
}

func shipmentID(orderID uuid.UUID, car int) uuid.UUID {
	return uuid.NewSHA1(orderID, fmt.Append(nil, shipment.Feed, " ", car))
}

func applyCustomers(ctx context.Context, tx *publish.Tx, batch *subscribe.Batch) error {
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
	b.Queue(`delete from deleted_customer where id = any($1)`, batch.IDs())
	b.Queue(`
		update shipment set name = null, street = null, postal_code = null, city = null, country = null
		 where customer_id = any($1) and status = $2 and name is not null`, batch.Deleted, shipment.Shipped)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return settle(ctx, tx, slices.Concat(batch.IDs(), batch.Deleted), nil)
}

// maxCars bounds the cars of the cancelled orders in a batch of several orders.
const maxCars = 20_000

// applyOrders makes a shipment for each car of a cancelled order that has none: also of a car that is never built, the
// feed says that it is stopped. An order that the source no longer has counts as cancelled.
func applyOrders(ctx context.Context, tx *publish.Tx, batch *subscribe.Batch) error {
	ids := slices.Concat(batch.IDs(), batch.Deleted)
	var b pgx.Batch
	b.Queue(lock)
	batch.Queue(&b, `
		insert into orders (id, version, status, customer_id, models)
		select id, version, status, customer_id, array(
			select l.model from rows from (jsonb_to_recordset(o.lines) as (model text, quantity int)) with ordinality as l (model, quantity, line)
			 cross join generate_series(1, l.quantity) order by l.line)
		  from jsonb_to_recordset($1) as o `+orderPart.Columns+`
		on conflict (id) do update set version = excluded.version, status = excluded.status, customer_id = excluded.customer_id, models = excluded.models`)
	b.Queue(`delete from cancelled_order where id = any($1)`, ids)
	b.Queue(`
		insert into cancelled_order select id from unnest($1::uuid[]) as id left join orders using (id)
		 where status is distinct from $2 or id = any($3)`, ids, order.Placed, batch.Deleted)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, `
		select id, generate_series(1, cardinality(models)) from orders join cancelled_order using (id) where id = any($1)`, ids)
	var shipments, of []uuid.UUID
	var cars []int
	var id uuid.UUID
	var car int
	if _, err := pgx.ForEachRow(rows, []any{&id, &car}, func() error {
		shipments, of, cars = append(shipments, shipmentID(id, car)), append(of, id), append(cars, car)
		return nil
	}); err != nil {
		return err
	}
	if len(cars) > maxCars && len(batch.Entities) > 1 {
		return subscribe.ErrTooMuch
	}
	b = pgx.Batch{}
	b.Queue(`
		insert into shipment (id, version, status, order_id, customer_id, car, model)
		select s.id, 0, $4, o.id, o.customer_id, s.car, o.models[s.car]
		  from unnest($1::uuid[], $2::uuid[], $3::int[]) as s (id, order_id, car) join orders o on o.id = s.order_id
		on conflict do nothing`, shipments, of, cars, shipment.Waiting)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return settle(ctx, tx, nil, ids)
}

const published = ` returning s.id, s.version, s.status, s.order_id, s.car, s.shipped_at, s.updated_at`

// settle updates the shipments of these customers and orders that are not out. A shipment is stopped if its order is
// cancelled or its account deleted, or stays returned if it was out before. It is ready once its car is finished and the
// customer is known, and then gets the current address.
func settle(ctx context.Context, tx *publish.Tx, customers, orders []uuid.UUID) error {
	return publishChanges(ctx, tx, `
		with found as (
			select s.id, case when d.id is not null or o.id is not null then case when s.status = $8 then $8 else $4 end
			            when c.id is null or not exists (select from build b where b.order_id = s.order_id and b.car = s.car and b.status = $3) then $5
			            else $6 end as status,
			       c.name, c.street, c.postal_code, c.city, c.country
			  from shipment s
			  left join customer c on c.id = s.customer_id
			  left join deleted_customer d on d.id = s.customer_id
			  left join cancelled_order o on o.id = s.order_id
			 where (s.customer_id = any($1) or s.order_id = any($2)) and s.status <> $7
		), wanted as (
			select id, status, r.* from found left join lateral (select name, street, postal_code, city, country, statement_timestamp() as at) r on status = $6
		)
		update shipment s set version = version + 1, status = w.status, name = w.name, street = w.street, postal_code = w.postal_code,
		       city = w.city, country = w.country, ready_at = w.at, shipped_at = null,
		       updated_at = greatest(statement_timestamp(), updated_at + interval '1 microsecond')
		  from wanted w where w.id = s.id and (w.status <> s.status or s.version = 0)`+published,
		customers, orders, carbuild.Finished, shipment.Stopped, shipment.Waiting, shipment.Ready, shipment.Shipped, shipment.Returned)
}

const pickUpChunk = 500

// pickUp ships cars that have been ready for the given time, or are ready in the future because of a wrong clock.
// Nothing leaves while the copies are not current, since the order may be cancelled.
func pickUp(ctx context.Context, log *publish.Log, current *subscribe.Current, after time.Duration) error {
	return log.InTx(ctx, func(tx *publish.Tx) error {
		if _, err := tx.Exec(ctx, lock); err != nil {
			return err
		}
		if behind, err := current.Look(ctx, tx); err != nil || len(behind) > 0 {
			return err
		}
		return publishChanges(ctx, tx, `
			update shipment s set version = version + 1, status = $1, shipped_at = due.at, updated_at = due.at
			  from (select id, greatest(statement_timestamp(), updated_at + interval '1 microsecond') as at from shipment
			         where status = $2 and (ready_at <= statement_timestamp() - $3::interval or ready_at > statement_timestamp() + interval '1 minute')
			         order by ready_at limit $4) due
			 where s.id = due.id`+published, shipment.Shipped, shipment.Ready, after, pickUpChunk)
	})
}

// takeBack records that a car is back. It changes nothing unless the car has left and its order is cancelled.
func takeBack(ctx context.Context, log *publish.Log, id uuid.UUID) error {
	return log.InTx(ctx, func(tx *publish.Tx) error {
		if _, err := tx.Exec(ctx, lock); err != nil {
			return err
		}
		return publishChanges(ctx, tx, `
			update shipment s set version = version + 1, status = $1, ready_at = null, name = null, street = null, postal_code = null, city = null,
			       country = null, updated_at = greatest(statement_timestamp(), updated_at + interval '1 microsecond')
			  from cancelled_order o where s.id = $2 and s.status = $3 and o.id = s.order_id`+published, shipment.Returned, id, shipment.Shipped)
	})
}

// publishChanges appends the current state of the shipments that the statement returns.
func publishChanges(ctx context.Context, tx *publish.Tx, statement string, args ...any) error {
	rows, _ := tx.Query(ctx, statement, args...)
	changed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e publish.Entry, err error) {
		var s shipment.Shipment
		var shippedAt *time.Time
		if err := row.Scan(&s.ID, &s.Version, &s.Status, &s.OrderID, &s.Car, &shippedAt, &s.UpdatedAt.Time); err != nil {
			return e, err
		}
		s.ShippedAt, s.UpdatedAt = feed.OptionalTime(shippedAt), feed.TimeOf(s.UpdatedAt.Time)
		payload, err := json.Marshal(&s)
		return publish.Entry{ID: s.ID, Version: s.Version, Updated: s.UpdatedAt.Time, Payload: payload}, err
	})
	tx.Append(shipment.Feed, changed...)
	return err
}
