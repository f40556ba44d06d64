-- +goose Up
create table build (
    id          uuid   primary key,
    version     bigint not null,
    status      text   not null,
    order_id    uuid   not null,
    customer_id uuid   not null,
    car         int    not null,
    model       text   not null
);
create index on build (order_id, car);

create table customer (
    id          uuid   primary key,
    version     bigint not null,
    name        text   not null,
    street      text   not null,
    postal_code text   not null,
    city        text   not null,
    country     text   not null
);

-- Customers that are not coming: the account was deleted.
create table deleted_customer (id uuid primary key);

-- The copy of the orders feed, as far as shipping needs it.
create table orders (
    id          uuid   primary key,
    version     bigint not null,
    status      text   not null,
    customer_id uuid   not null,
    models      text[] not null -- of its cars 1, 2, 3 ...
);

-- Orders that do not stand: cancelled, or gone at their source. An order that has not come yet is not here.
create table cancelled_order (id uuid primary key);

-- A shipment per car that was finished once, or whose order was cancelled. Name and address are those of the moment when it became ready.
-- A car that is returned keeps shipped_at, and no address.
create table shipment (
    id          uuid        primary key, -- derived from order_id and car
    version     bigint      not null,    -- 1, 2, 3 ... on the feed; 0 only within the transaction that makes it
    status      text        not null check (status in ('waiting', 'ready', 'shipped', 'stopped', 'returned')),
    order_id    uuid        not null,
    customer_id uuid        not null,
    car         int         not null,
    model       text        not null,
    name        text,                    -- with the address: null unless ready or shipped, and when the account was deleted
    street      text,
    postal_code text,
    city        text,
    country     text,
    ready_at    timestamptz,
    shipped_at  timestamptz,
    updated_at  timestamptz not null default now(),
    unique (order_id, car),
    check ((ready_at is not null) = (status in ('ready', 'shipped'))),
    check (name is null or status in ('ready', 'shipped')),
    constraint shipment_shipped check ((shipped_at is not null) = (status in ('shipped', 'returned')))
);
create index on shipment (customer_id);
create index on shipment (updated_at, id);
create index on shipment (status, updated_at, id);
select keep_row_count('shipment', 'status');

select feed_create('shipments', personal => false);
