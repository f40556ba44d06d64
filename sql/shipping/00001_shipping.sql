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

-- A shipment per build that was finished once. Name and address are those of the moment when it became ready.
create table shipment (
    id          uuid        primary key, -- derived from build_id
    version     bigint      not null,    -- 1, 2, 3 ... on the feed; 0 only within the transaction that makes it
    status      text        not null check (status in ('waiting', 'ready', 'shipped', 'stopped')),
    build_id    uuid        not null unique,
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
    check ((ready_at is not null) = (status in ('ready', 'shipped'))),
    check ((shipped_at is not null) = (status = 'shipped')),
    check (name is null or status in ('ready', 'shipped'))
);
create index on shipment (customer_id);
create index on shipment (order_id);
create index on shipment (status, updated_at);

select feed_create('shipments');

-- +goose Down
delete from feed_entry where feed = 'shipments';
delete from feed where name = 'shipments';
drop table shipment, deleted_customer, customer, build;
