// Package warehouse reserves the parts of every ordered car until they are built in or the order is cancelled, orders new
// pieces when stock is low, and books their arrival.
package warehouse

import (
	"context"
	"embed"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

type settings struct {
	LeadSpeed speed `env:"LEAD_SPEED" envDefault:"20000" help:"how many times faster than real time suppliers deliver: 1 is real time; by default a day takes 4 s"`
}

// speed is from 0.001 to 1000000.
type speed float64

func (s speed) words() string {
	if s == 1 {
		return ""
	}
	return strconv.FormatFloat(float64(s), 'f', -1, 64)
}

// UnmarshalText reads a speed. The error states the range.
func (s *speed) UnmarshalText(text []byte) error {
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(v >= 0.001 && v <= 1e6) {
		return fmt.Errorf("takes a number from 0.001 to 1000000, not %q", text)
	}
	*s = speed(v)
	return nil
}

// Service returns the warehouse service.
func Service() *subscriber.Service {
	set := new(settings)
	return &subscriber.Service{
		Name: "warehouse", Title: "Warehouse", Addr: "127.0.0.1:8090",
		Text:       "reserves parts by bill of materials, books what is built in, orders new pieces below the reorder point",
		Migrations: sql.Migrations("warehouse"),
		Settings:   set,
		Feeds: []subscribe.Feed{
			{
				Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders",
				Check: order.Check, Needs: orderPart.Needs,
				Apply: func(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
					return applyOrders(ctx, tx, batch, set.LeadSpeed)
				},
			},
			{
				Name: carbuild.Feed, URL: "http://localhost:8091/feeds/builds", Schedule: "@every 5s", Table: "build",
				Check: carbuild.Check, Needs: buildPart.Needs, Optional: true,
				Apply: func(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
					return applyBuilds(ctx, tx, batch, set.LeadSpeed)
				},
			},
		},
		Work: func(ctx context.Context, s *subscriber.Site) error { return book(ctx, s.DB, time.Now()) },
		Trace: func(ctx context.Context, s *subscriber.Site, id uuid.UUID) (trace.Part, error) {
			return traceOrder(ctx, s.DB, id)
		},
		Routes: func(s *subscriber.Site) {
			s.Page("/", "Parts", partsPage, func(r *http.Request) (any, error) { return overview(r, s.DB) })
			s.Page("/parts/:part", "Stock history", historyPage, func(r *http.Request) (any, error) { return readHistory(r, s.DB) })
			s.Page("/purchases", "Purchases", purchasesPage, func(r *http.Request) (any, error) { return readPurchases(r, s.DB) })
			s.Page("/orders", "Orders", ordersPage, func(r *http.Request) (any, error) { return showOrders(r, s.DB) })
			s.Page("/suppliers", "Suppliers", suppliersPage, func(r *http.Request) (any, error) {
				list, err := suppliers(r.Context(), s.DB)
				return supplierList{list, set.LeadSpeed.words()}, err
			})
			s.Page("/reservations/:id", "Reservation", orderPage, func(r *http.Request) (any, error) { return readOrder(r.Context(), s.DB, r.PathValue("id")) })
			s.JSON("/api/parts", func(r *http.Request) (any, error) { return parts(r.Context(), s.DB) })
			s.JSON("/api/purchases", func(r *http.Request) (any, error) { return readPurchases(r, s.DB) })
			s.JSON("/api/orders", func(r *http.Request) (any, error) { return readOrders(r, s.DB) })
			s.JSON("/api/movements", func(r *http.Request) (any, error) {
				list, err := readMovements(r, s.DB, r.URL.Query().Get("part"))
				return list.List, err
			})
			s.JSON("/api/suppliers", func(r *http.Request) (any, error) { return suppliers(r.Context(), s.DB) })
		},
	}
}

//go:embed *.html
var pages embed.FS

var (
	partsPage     = web.Template(pages, "warehouse.html")
	historyPage   = web.Template(pages, "part.html")
	ordersPage    = web.Template(pages, "orders.html")
	purchasesPage = web.Template(pages, "purchases.html")
	suppliersPage = web.Template(pages, "suppliers.html")
)

// lockStock serializes the transactions that change stock, so that each part's movements form a sequence.
const lockStock = `select from part order by part for update`

func applyOrders(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch, faster speed) error {
	var b pgx.Batch
	b.Queue(lockStock)
	batch.Queue(&b, `
		insert into orders (id, version, status, lines)
		select id, version, status, lines from jsonb_to_recordset($1) as o `+orderPart.Columns+`
		on conflict (id) do update set version = excluded.version, status = excluded.status, lines = excluded.lines`)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	settle(&b, append(batch.IDs(), batch.Deleted...), faster)
	return tx.SendBatch(ctx, &b).Close()
}

func applyBuilds(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch, faster speed) error {
	if _, err := tx.Exec(ctx, lockStock); err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, `
		select order_id from build where id = any($1) union select order_id from jsonb_to_recordset($2) as b (order_id uuid)`,
		append(batch.IDs(), batch.Deleted...), batch.JSON())
	orders, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	var b pgx.Batch
	batch.Queue(&b, `
		insert into build (id, version, status, order_id, model, options)
		select id, version, status, order_id, model, options
		  from jsonb_to_recordset($1) as b `+buildPart.Columns+`
		on conflict (id) do update set version = excluded.version, status = excluded.status, order_id = excluded.order_id,
		       model = excluded.model, options = excluded.options`)
	b.Queue(`delete from build where id = any($1)`, batch.Deleted)
	settle(&b, orders, faster)
	return tx.SendBatch(ctx, &b).Close()
}

// settle brings stock and reservations in line with the copies of these orders and their builds, and then purchases
// parts that are below their reorder point. The parts of a started build are built in, even if its order is cancelled.
// For the other cars of an order that is not cancelled they are reserved.
func settle(b *pgx.Batch, orders []uuid.UUID, faster speed) {
	b.Queue(`
		with ordered as (
			select o.id as order_id, bom.part, sum(l.quantity * bom.quantity) as quantity
			  from orders o
			 cross join jsonb_to_recordset(o.lines) as l (model text, options jsonb, quantity bigint)
			 cross join lateral (select l.model union all select jsonb_array_elements_text(l.options)) as of (item)
			  join bill_of_materials bom on bom.item = of.item
			 where o.id = any($1) and o.status = $2
			 group by o.id, bom.part
		), built as (
			select b.order_id, bom.part, sum(bom.quantity) as quantity
			  from build b
			 cross join lateral (select b.model union all select unnest(b.options)) as of (item)
			  join bill_of_materials bom on bom.item = of.item
			 where b.order_id = any($1) and b.status in ($3, $4)
			 group by b.order_id, bom.part
		), wanted as (
			select order_id, part, greatest(coalesce(ordered.quantity, 0) - coalesce(built.quantity, 0), 0)::bigint as quantity,
			       coalesce(built.quantity, 0)::bigint as built_in
			  from ordered full join built using (order_id, part)
		), held as (
			select * from reservation where order_id = any($1)
		), change as (
			select order_id, part, coalesce(wanted.quantity, 0) as quantity, coalesce(wanted.built_in, 0) as built_in,
			       coalesce(wanted.quantity, 0) - coalesce(held.quantity, 0) as reserved, coalesce(wanted.built_in, 0) - coalesce(held.built_in, 0) as taken
			  from wanted full join held using (order_id, part)
			 where (wanted.quantity, wanted.built_in) is distinct from (held.quantity, held.built_in)
		), released as (
			delete from reservation r using change c where r.order_id = c.order_id and r.part = c.part and c.quantity = 0 and c.built_in = 0
		), stored as (
			insert into reservation (order_id, part, quantity, built_in)
			select order_id, part, quantity, built_in from change where quantity > 0 or built_in > 0
			on conflict (order_id, part) do update set quantity = excluded.quantity, built_in = excluded.built_in
		), total as (
			select part, sum(reserved)::bigint as reserved, sum(taken)::bigint as taken from change group by part
		), stock as (
			update part set reserved = part.reserved + total.reserved, on_hand = on_hand - total.taken from total where part.part = total.part
			returning part.part, on_hand + total.taken as on_hand, part.reserved - total.reserved as reserved, on_order
		)
		insert into movement (part, order_id, on_hand, reserved, on_hand_after, reserved_after, on_order_after)
		select part, order_id, -taken, change.reserved, on_hand - sum(taken) over so_far, stock.reserved + sum(change.reserved) over so_far, on_order
		  from change join stock using (part) window so_far as (partition by part order by order_id) order by order_id, part`,
		orders, order.Placed, carbuild.Started, carbuild.Finished)
	b.Queue(`
		update orders o set to_build = not o.to_build
		 where id = any($1) and to_build <> exists (select from reservation r where r.order_id = o.id and r.quantity > 0)`, orders)
	b.Queue(`
		with short as (
			select part, ceil((reorder_point - (on_hand + on_order - reserved))::numeric / lot) * lot as quantity, lead_days
			  from part join supplier using (supplier) where on_hand + on_order - reserved < reorder_point
		), purchased as (
			insert into purchase (number, part, quantity, due_at)
			select (select coalesce(max(number), 0) from purchase) + row_number() over (order by part), part, quantity,
			       now() + lead_days * interval '1 day' / $1::float8
			  from short
			returning number, part, quantity
		), stock as (
			update part set on_order = on_order + quantity from purchased where part.part = purchased.part
			returning part.part, number, quantity, on_hand, reserved, on_order
		)
		insert into movement (part, purchase, on_order, on_hand_after, reserved_after, on_order_after)
		select part, number, quantity, on_hand, reserved, on_order from stock order by number`, float64(faster))
}
