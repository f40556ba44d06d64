package dashboard

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// recountKey serializes changes of the figures: an order and its builds may arrive at the same time.
const recountKey = 0x666967757265

// recount runs a change and keeps the figures correct: it subtracts the orders with these ids before the change and
// adds them after it.
func recount(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, change func(*pgx.Batch)) error {
	var b pgx.Batch
	b.Queue(`select pg_advisory_xact_lock($1)`, int64(recountKey))
	b.Queue(count, ids, -1)
	change(&b)
	b.Queue(stage, ids)
	b.Queue(count, ids, 1)
	return tx.SendBatch(ctx, &b).Close()
}

// stage sets the stage of orders, which is that of their slowest car.
const stage = `
	update orders set stage = now.stage, built_at = now.built_at, shipped_at = now.shipped_at
	  from (
		select id, stage, case when stage in ('built', 'shipped') then built_at end as built_at, case when stage = 'shipped' then shipped_at end as shipped_at
		  from (
		select o.id, max(b.finished_at) as built_at, max(s.shipped_at) as shipped_at,
		       case when o.status <> 'placed' then o.status
		            when count(b.id) = 0 or count(b.id) < (select sum(quantity) from order_line where order_id = o.id) then 'placed'
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

// count adds orders to the figures, or subtracts them if $2 is -1. Of cancelled orders it keeps only the number. It
// rounds lead times to two digits to limit the number of rows.
const count = `
	with changed as (
		select *, (placed_at at time zone 'UTC')::date as day from orders where id = any($1)
	), line as (
		select changed.id, day, status = 'placed' as stands, model, options, quantity, quantity * unit_price_cents as cents
		  from changed join order_line on order_id = changed.id
	), lead as (
		select day, kind, greatest(round(extract(epoch from span)), 0) as seconds
		  from changed cross join lateral (values
			('placed-built', built_at - placed_at), ('built-shipped', shipped_at - built_at), ('placed-shipped', shipped_at - placed_at)) as v (kind, span)
		 where span is not null
	), counted (kind, day, name, orders, cars, cents) as (
		select 'stage', changed.day, stage, count(distinct changed.id), coalesce(sum(quantity), 0), coalesce(sum(cents), 0)
		  from changed left join line on line.id = changed.id group by changed.day, stage
		union all
		select 'hour', changed.day, to_char(placed_at at time zone 'UTC', 'HH24'), count(distinct changed.id), coalesce(sum(quantity), 0), coalesce(sum(cents), 0)
		  from changed left join line on line.id = changed.id where stage <> 'cancelled' group by 1, 2, 3
		union all
		select 'model', day, model, count(distinct id), sum(quantity), sum(cents) from line where stands group by day, model
		union all
		select 'option', day, option, count(distinct id), sum(quantity), sum(cents)
		  from line cross join unnest(options) as option where stands group by day, option
		union all
		select kind, day, round(seconds, 2 - length(seconds::text))::bigint::text, count(*), 0, 0
		  from lead group by 1, 2, 3
	)
	insert into figure (kind, day, name, orders, cars, revenue_cents)
	select kind, day, name, $2::int * orders, $2::int * cars, $2::int * cents from counted
	on conflict (day, kind, name) do update set orders = figure.orders + excluded.orders, cars = figure.cars + excluded.cars,
	       revenue_cents = figure.revenue_cents + excluded.revenue_cents`
