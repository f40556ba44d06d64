-- +goose Up

-- The copy of the shipments feed: an invoice is not credited while a car of its order is out.
create table shipment (
    id       uuid   primary key,
    version  bigint not null,
    order_id uuid   not null,
    status   text   not null
);
create index on shipment (order_id) where status = 'shipped';

-- +goose Down
drop table shipment;
