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
    id      uuid   primary key,
    version bigint not null,
    status  text   not null
);

-- Orders that do not stand: cancelled, or gone at their source. An order that has not come yet is not here.
create table cancelled_order (id uuid primary key);

-- A shipment per build that was finished once. Name and address are those of the moment when it became ready. A shipped car comes back
-- once its order is cancelled: it keeps shipped_at, and no address.
create table shipment (
    id              uuid        primary key, -- derived from build_id
    version         bigint      not null,    -- 1, 2, 3 ... on the feed; 0 only within the transaction that makes it
    status          text        not null check (status in ('waiting', 'ready', 'shipped', 'stopped', 'returned')),
    build_id        uuid        not null unique,
    order_id        uuid        not null,
    customer_id     uuid        not null,
    car             int         not null,
    model           text        not null,
    name            text,                    -- with the address: null unless ready or shipped, and when the account was deleted
    street          text,
    postal_code     text,
    city            text,
    country         text,
    ready_at        timestamptz,
    shipped_at      timestamptz,
    updated_at      timestamptz not null default now(),
    returning_since timestamptz,             -- of a shipped one
    check ((ready_at is not null) = (status in ('ready', 'shipped'))),
    check (name is null or status in ('ready', 'shipped')),
    constraint shipment_shipped   check ((shipped_at is not null) = (status in ('shipped', 'returned'))),
    constraint shipment_returning check (returning_since is null or status = 'shipped')
);
create index on shipment (customer_id);
create index on shipment (order_id);
create index on shipment (status, updated_at);
create index on shipment (returning_since) where returning_since is not null;
select keep_row_count('shipment', 'status');

select feed_create('shipments');
