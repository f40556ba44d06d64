// Package shipping sends every finished car to its customer, at the address that is known when the car is ready, and
// takes it back when its order is cancelled.
package shipping

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
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
	Return time.Duration `env:"RETURN" envDefault:"20s" help:"how long a car that has left takes to return once its order is cancelled"`
}

const name = "shipping"

// Service returns the shipping service.
func Service() *subscriber.Service {
	set := new(settings)
	current := &subscribe.Current{Service: name, Feeds: []string{carbuild.Feed, customer.Feed, order.Feed}}
	return &subscriber.Service{
		Name: name, Title: "Shipping", Addr: "127.0.0.1:8094",
		Text:       "ships each finished car to its customer, and takes it back if the order is cancelled",
		Migrations: sql.Migrations("shipping"),
		Settings:   set,
		Feeds: []subscribe.Feed{
			{
				Name: carbuild.Feed, URL: "http://localhost:8091/feeds/builds", Schedule: "@every 5s", Table: "build",
				Check: carbuild.Check, Apply: subscribe.Publishing(applyBuilds),
			},
			{
				Name: customer.Feed, URL: "http://localhost:8081/feeds/customers", Schedule: "@every 5s", Table: "customer",
				Check: customer.Check, Apply: subscribe.Publishing(applyCustomers),
				Kept: `exists (select from shipment where customer_id = e.id and name is not null)`,
			},
			{
				Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders",
				Check: order.Check, Apply: subscribe.Publishing(applyOrders),
			},
		},
		Publishes: func(publicURL string) []feed.Description { return []feed.Description{shipmentsFeed(publicURL)} },
		Work: func(ctx context.Context, s *subscriber.Site) error {
			return errors.Join(pickUp(ctx, s.Log, current, set.Pickup), takeBack(ctx, s.Log, set.Return))
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
			s.Page("/shipments/:id", "Shipment", labelPage, func(r *http.Request) (any, error) { return readLabel(r, s.DB) })
			s.JSON("/api/shipments", func(r *http.Request) (any, error) { return listAsked(r, s.DB) })
		},
	}
}

//go:embed *.html
var pages embed.FS

var (
	page      = web.Template(pages, "shipping.html")
	labelPage = web.Template(pages, "label.html")
)

// lock serializes the transactions of the feeds and of the pick-up, so that a build and its customer that arrive at the
// same time find each other.
const lock = `select pg_advisory_xact_lock(hashtext('shipment'))`

func applyBuilds(ctx context.Context, tx *publish.Tx, batch *subscribe.Batch) error {
	ids := batch.IDs()
	shipments := make([]uuid.UUID, len(ids))
	for i, id := range ids {
		shipments[i] = shipmentID(id)
	}
	var b pgx.Batch
	b.Queue(lock)
	batch.Queue(&b, `
		insert into build (id, version, status, order_id, customer_id, car, model)
		select id, version, status, order_id, customer_id, car, model
		  from jsonb_to_recordset($1) as b (id uuid, version bigint, status text, order_id uuid, customer_id uuid, car int, model text)
		on conflict (id) do update set version = excluded.version, status = excluded.status, order_id = excluded.order_id,
		       customer_id = excluded.customer_id, car = excluded.car, model = excluded.model`)
	b.Queue(`delete from build where id = any($1)`, batch.Deleted)
	b.Queue(`
		insert into shipment (id, version, status, build_id, order_id, customer_id, car, model)
		select s.id, 0, $4, b.id, b.order_id, b.customer_id, b.car, b.model
		  from unnest($1::uuid[], $2::uuid[]) as s (id, build_id) join build b on b.id = s.build_id where b.status = $3
		on conflict (build_id) do nothing`, shipments, ids, carbuild.Finished, shipment.Waiting)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return settle(ctx, tx, slices.Concat(ids, batch.Deleted), nil, nil)
}

func shipmentID(buildID uuid.UUID) uuid.UUID { return uuid.NewSHA1(buildID, []byte(shipment.Feed)) }

func applyCustomers(ctx context.Context, tx *publish.Tx, batch *subscribe.Batch) error {
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
	b.Queue(`delete from deleted_customer where id = any($1)`, batch.IDs())
	b.Queue(`
		update shipment set name = null, street = null, postal_code = null, city = null, country = null
		 where customer_id = any($1) and status = $2 and name is not null`, batch.Deleted, shipment.Shipped)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return settle(ctx, tx, nil, slices.Concat(batch.IDs(), batch.Deleted), nil)
}

// applyOrders stores which orders are cancelled. An order that the source no longer has counts as cancelled.
func applyOrders(ctx context.Context, tx *publish.Tx, batch *subscribe.Batch) error {
	ids := slices.Concat(batch.IDs(), batch.Deleted)
	var b pgx.Batch
	b.Queue(lock)
	batch.Queue(&b, `
		insert into orders (id, version, status)
		select id, version, status from jsonb_to_recordset($1) as o (id uuid, version bigint, status text)
		on conflict (id) do update set version = excluded.version, status = excluded.status`)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	b.Queue(`delete from cancelled_order where id = any($1)`, ids)
	b.Queue(`insert into cancelled_order select id from unnest($1::uuid[]) as id left join orders using (id) where status is distinct from $2`, ids, order.Placed)
	b.Queue(`
		update shipment s set returning_since = case when c.id is not null then statement_timestamp() end
		  from unnest($1::uuid[]) as o (id) left join cancelled_order c using (id)
		 where s.order_id = o.id and s.status = $2 and (c.id is null) <> (s.returning_since is null)`, ids, shipment.Shipped)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return settle(ctx, tx, nil, nil, ids)
}

const published = ` returning s.id, s.version, s.status, s.build_id, s.order_id, s.shipped_at, s.updated_at`

// settle updates the shipments of these builds, customers and orders that are not out. A shipment is stopped if its
// build is not finished, its account deleted or its order cancelled, or returned if it was out before. It is ready once
// the customer is known, and then gets the current address.
func settle(ctx context.Context, tx *publish.Tx, builds, customers, orders []uuid.UUID) error {
	return publishChanges(ctx, tx, `
		with found as (
			select s.id, case when b.status is null or b.status <> $4 or d.id is not null or o.id is not null
			            then case when s.status = $9 then $9 else $5 end
			            when c.id is null then $6 else $7 end as status,
			       c.name, c.street, c.postal_code, c.city, c.country
			  from shipment s
			  left join build b on b.id = s.build_id
			  left join customer c on c.id = s.customer_id
			  left join deleted_customer d on d.id = s.customer_id
			  left join cancelled_order o on o.id = s.order_id
			 where (s.build_id = any($1) or s.customer_id = any($2) or s.order_id = any($3)) and s.status <> $8
		), wanted as (
			select id, status, r.* from found left join lateral (select name, street, postal_code, city, country, statement_timestamp() as at) r on status = $7
		)
		update shipment s set version = version + 1, status = w.status, name = w.name, street = w.street, postal_code = w.postal_code,
		       city = w.city, country = w.country, ready_at = w.at, shipped_at = null, updated_at = greatest(statement_timestamp(), updated_at + interval '1 microsecond')
		  from wanted w where w.id = s.id and (w.status <> s.status or s.version = 0)`+published,
		builds, customers, orders, carbuild.Finished, shipment.Stopped, shipment.Waiting, shipment.Ready, shipment.Shipped, shipment.Returned)
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

// takeBack returns cars that have been on their way back for the given time, or since a time in the future because of a
// wrong clock.
func takeBack(ctx context.Context, log *publish.Log, after time.Duration) error {
	return log.InTx(ctx, func(tx *publish.Tx) error {
		if _, err := tx.Exec(ctx, lock); err != nil {
			return err
		}
		return publishChanges(ctx, tx, `
			update shipment s set version = version + 1, status = $1, ready_at = null, returning_since = null, updated_at = due.at,
			       name = null, street = null, postal_code = null, city = null, country = null
			  from (select id, greatest(statement_timestamp(), updated_at + interval '1 microsecond') as at from shipment
			         where returning_since <= statement_timestamp() - $2::interval or returning_since > statement_timestamp() + interval '1 minute'
			         order by returning_since limit $3) due
			 where s.id = due.id`+published, shipment.Returned, after, pickUpChunk)
	})
}

// publishChanges appends the current state of the shipments that the statement returns.
func publishChanges(ctx context.Context, tx *publish.Tx, statement string, args ...any) error {
	rows, err := tx.Query(ctx, statement, args...)
	if err != nil {
		return err
	}
	changed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e publish.Entry, err error) {
		var s shipment.Shipment
		var shippedAt *time.Time
		if err := row.Scan(&s.ID, &s.Version, &s.Status, &s.BuildID, &s.OrderID, &shippedAt, &s.UpdatedAt.Time); err != nil {
			return e, err
		}
		s.ShippedAt, s.UpdatedAt = feed.OptionalTime(shippedAt), feed.TimeOf(s.UpdatedAt.Time)
		payload, err := json.Marshal(&s)
		return publish.Entry{ID: s.ID, Version: s.Version, Updated: s.UpdatedAt.Time, Payload: payload}, err
	})
	tx.Append(shipment.Feed, changed...)
	return err
}
