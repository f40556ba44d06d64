-- +goose Up

alter table orders
    add column stage      text not null default 'placed', -- of its slowest car: placed, planned, started, built, shipped; or cancelled
    add column built_at   timestamptz,                    -- null: not all of its cars are
    add column shipped_at timestamptz;
update orders set stage = 'cancelled' where status = 'cancelled';
create index on orders (placed_at, id);

alter table order_line add column options text[] not null default '{}';

-- The copies of the builds and the shipments feeds: a row for each car.
create table build (
    id          uuid   primary key,
    version     bigint not null,
    order_id    uuid   not null,
    status      text   not null,
    finished_at timestamptz
);
create index on build (order_id);

create table shipment (
    id         uuid   primary key,
    version    bigint not null,
    order_id   uuid   not null,
    build_id   uuid   not null,
    status     text   not null,
    shipped_at timestamptz
);
create index on shipment (build_id);

-- What the orders amount to, by the day (UTC) on which they were placed: pages read these few rows, not all orders.
create table figure (
    kind          text   not null, -- stage, model, option; or a lead time: placed-built, built-shipped, placed-shipped
    day           date   not null,
    name          text   not null, -- of the stage, model or option; of a lead time its seconds, rounded to two digits
    orders        bigint not null,
    cars          bigint not null,
    revenue_cents bigint not null,
    primary key (day, kind, name)
);

insert into figure
select 'stage', (placed_at at time zone 'UTC')::date, stage, count(distinct id), coalesce(sum(quantity), 0), coalesce(sum(quantity * unit_price_cents), 0)
  from orders left join order_line on order_id = id group by 2, 3;
insert into figure
select 'model', (placed_at at time zone 'UTC')::date, model, count(distinct id), sum(quantity), sum(quantity * unit_price_cents)
  from orders join order_line on order_id = id where status = 'placed' group by 2, 3;

-- The options were not copied so far: the feed is read again for them, while the copy serves.
update subscription
   set walk_cursor = '0', walk_history = '0', walk_reason = 'An upgrade: the dashboard counts options from now on.', walk_since = now()
 where feed = 'orders' and cursor <> '0' and walk_cursor is null;

-- +goose Down
drop table figure, shipment, build;
alter table order_line drop column options;
alter table orders drop column stage, drop column built_at, drop column shipped_at;
drop index orders_placed_at_id_idx;
