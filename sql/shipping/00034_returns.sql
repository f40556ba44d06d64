-- +goose Up

-- The copy of the orders feed, as far as shipping needs it.
create table orders (
    id      uuid   primary key,
    version bigint not null,
    status  text   not null
);

-- Orders that do not stand: cancelled, or gone at their source. An order that has not come yet is not here.
create table cancelled_order (id uuid primary key);

-- A shipped car comes back once its order is cancelled. It keeps shipped_at, and no address.
alter table shipment
    add column returning_since timestamptz, -- of a shipped one
    drop constraint shipment_status_check,
    drop constraint shipment_check1,
    add constraint shipment_status_check check (status in ('waiting', 'ready', 'shipped', 'stopped', 'returned')),
    add constraint shipment_shipped check ((shipped_at is not null) = (status in ('shipped', 'returned'))),
    add constraint shipment_returning check (returning_since is null or status = 'shipped');
create index on shipment (returning_since) where returning_since is not null;

-- +goose Down
-- Returned cars cannot be said in the old words.
alter table shipment
    drop constraint shipment_shipped,
    drop constraint shipment_status_check,
    drop column returning_since;
update shipment set status = 'stopped', shipped_at = null where status = 'returned';
alter table shipment
    add constraint shipment_status_check check (status in ('waiting', 'ready', 'shipped', 'stopped')),
    add constraint shipment_check1 check ((shipped_at is not null) = (status = 'shipped'));
drop table cancelled_order, orders;
