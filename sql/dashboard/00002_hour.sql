-- +goose Up

-- Figures of the kind hour: what the orders that are not cancelled amount to, by the hour of the day (UTC), 00 to 23.
insert into figure (kind, day, name, orders, cars, revenue_cents)
select 'hour', (placed_at at time zone 'UTC')::date, to_char(placed_at at time zone 'UTC', 'HH24'), count(distinct id),
       coalesce(sum(quantity), 0), coalesce(sum(quantity * unit_price_cents), 0)
  from orders left join order_line on order_id = id
 where stage <> 'cancelled' group by 1, 2, 3;
