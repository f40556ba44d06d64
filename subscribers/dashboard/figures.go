package dashboard

import (
	"context"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/order"
)

// recountKey serializes changes of the figures: an order and its builds may arrive at the same time.
const recountKey = 0x666967757265

// recount runs a change and keeps the figures correct: it subtracts the orders with these ids before the change and
// adds them after it.
func recount(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, change func() error) error {
	changed := figures{}
	var before, after pgx.Batch
	before.Queue(`select pg_advisory_xact_lock($1)`, int64(recountKey))
	changed.count(&before, ids, -1)
	if err := tx.SendBatch(ctx, &before).Close(); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	after.Queue(stage, ids)
	changed.count(&after, ids, 1)
	if err := tx.SendBatch(ctx, &after).Close(); err != nil {
		return err
	}
	return changed.store(ctx, tx)
}

// stage sets the stage of orders, which is that of their slowest car.
const stage = `
	update orders set stage = now.stage, built_at = now.built_at, shipped_at = now.shipped_at
	  from (
		select id, stage, case when stage in ('built', 'shipped') then built_at end as built_at, case when stage = 'shipped' then shipped_at end as shipped_at
		  from (
		select o.id, max(b.finished_at) as built_at, max(s.shipped_at) as shipped_at,
		       case when o.status <> 'placed' then o.status
		            when count(b.id) = 0 or count(b.id) < (select sum((line->>'quantity')::bigint) from jsonb_array_elements(o.lines) as line) then 'placed'
		            when bool_and(s.id is not null) then 'shipped'
		            when bool_and(s.id is not null or b.status = 'finished') then 'built'
		            when bool_and(s.id is not null or b.status in ('finished', 'started')) then 'started'
		            else 'planned' end as stage
		  from orders o
		  left join build b on b.order_id = o.id and b.status <> 'cancelled'
		  left join shipment s on s.order_id = b.order_id and s.car = b.car and s.status = 'shipped'
		 where o.id = any($1) group by o.id
		  ) as found
	  ) as now
	 where orders.id = now.id and (orders.stage, orders.built_at, orders.shipped_at) is distinct from (now.stage, now.built_at, now.shipped_at)`

// A figure is one of the table figure, by its key.
type figure struct{ kind, day, name string }

// A sum is what orders amount to.
type sum struct{ orders, cars, cents int64 }

// figures are changes of the table figure. Most orders of a page have figures in common.
type figures map[figure]sum

// count queries orders, and adds what they amount to, or subtracts it if sign is -1.
func (f figures) count(b *pgx.Batch, ids []uuid.UUID, sign int64) {
	b.Queue(`select stage, placed_at, built_at, shipped_at, lines from orders where id = any($1)`, ids).Query(func(rows pgx.Rows) error {
		orders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stagedOrder])
		for _, o := range orders {
			f.add(o, sign)
		}
		return err
	})
}

type stagedOrder struct {
	Stage              string
	PlacedAt           time.Time
	BuiltAt, ShippedAt *time.Time // nil means that not all of its cars are
	Lines              []order.Line
}

// add adds an order, sign times. Of a cancelled order it adds only the stage.
func (f figures) add(o stagedOrder, sign int64) {
	placed := o.PlacedAt.UTC()
	day := placed.Format(time.DateOnly)
	add := func(kind, name string, orders int64, lines ...order.Line) {
		s := f[figure{kind, day, name}]
		s.orders += sign * orders
		for _, l := range lines {
			s.cars += sign * int64(l.Quantity)
			s.cents += sign * l.PriceCents()
		}
		f[figure{kind, day, name}] = s
	}
	if add("stage", o.Stage, 1, o.Lines...); o.Stage == string(order.Cancelled) {
		return
	}
	add("hour", placed.Format("15"), 1, o.Lines...)
	counted := map[figure]bool{}
	once := func(kind, name string, l order.Line) {
		key, n := figure{kind: kind, name: name}, int64(1)
		if counted[key] {
			n = 0
		}
		counted[key] = true
		add(kind, name, n, l)
	}
	for _, l := range o.Lines {
		once("model", l.Model, l)
		for _, option := range l.Options {
			once("option", option, l)
		}
	}
	lead := func(kind string, from, to *time.Time) {
		if from != nil && to != nil {
			add(kind, seconds(*from, *to), 1)
		}
	}
	lead("placed-built", &placed, o.BuiltAt)
	lead("built-shipped", o.BuiltAt, o.ShippedAt)
	lead("placed-shipped", &placed, o.ShippedAt)
}

// seconds returns the seconds from one time to another, rounded to two digits to limit the number of figures.
func seconds(from, to time.Time) string {
	n := max(to.UnixMicro()-from.UnixMicro()+500_000, 0) / 1_000_000
	unit := int64(1)
	for n/unit >= 100 {
		unit *= 10
	}
	return strconv.FormatInt((n+unit/2)/unit*unit, 10)
}

// store adds the changes to the table.
func (f figures) store(ctx context.Context, tx pgx.Tx) error {
	var kinds, days, names []string
	var orders, cars, cents []int64
	for key, s := range f {
		if s != (sum{}) {
			kinds, days, names = append(kinds, key.kind), append(days, key.day), append(names, key.name)
			orders, cars, cents = append(orders, s.orders), append(cars, s.cars), append(cents, s.cents)
		}
	}
	_, err := tx.Exec(ctx, `
		insert into figure (kind, day, name, orders, cars, revenue_cents)
		select kind, day::date, name, orders, cars, cents
		  from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) as f (kind, day, name, orders, cars, cents)
		on conflict (day, kind, name) do update set orders = figure.orders + excluded.orders, cars = figure.cars + excluded.cars,
		       revenue_cents = figure.revenue_cents + excluded.revenue_cents`, kinds, days, names, orders, cars, cents)
	return err
}
