-- +goose Up

-- The copy of the orders feed, as far as the statistics need it.
create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null,
    placed_at   timestamptz not null,
    total_cents bigint      not null,
    stage       text        not null default 'placed', -- of its slowest car: placed, planned, started, built, shipped; or cancelled
    built_at    timestamptz,                           -- null: not all of its cars are
    shipped_at  timestamptz
);
create index on orders (placed_at, id);

create table order_line (
    order_id         uuid   not null references orders on delete cascade,
    line             int    not null, -- 1, 2, 3 ... of the order
    model            text   not null,
    quantity         bigint not null,
    unit_price_cents bigint not null,
    options          text[] not null default '{}',
    primary key (order_id, line)
);

-- The copies of the builds and the shipments feeds: a row for each car.
create table build (
    id          uuid   primary key,
    version     bigint not null,
    order_id    uuid   not null,
    car         int    not null,
    status      text   not null,
    finished_at timestamptz
);
create index on build (order_id);

create table shipment (
    id         uuid   primary key,
    version    bigint not null,
    order_id   uuid   not null,
    car        int    not null,
    status     text   not null,
    shipped_at timestamptz
);
create index on shipment (order_id, car);

-- What the orders amount to, by the day (UTC) on which they were placed: pages read these few rows, not all orders.
create table figure (
    kind          text   not null, -- stage, hour, model, option; or a lead time: placed-built, built-shipped, placed-shipped
    day           date   not null,
    name          text   not null, -- of the stage, hour, model or option; of a lead time its seconds, rounded to two digits
    orders        bigint not null,
    cars          bigint not null,
    revenue_cents bigint not null,
    primary key (day, kind, name)
);
