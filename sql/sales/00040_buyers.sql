-- +goose Up

-- For a buyer's own list.
create index orders_customer on orders (customer_id, id);

-- Hand-overs from customers that were used. One that has expired may go.
create table handover (
    id      uuid        primary key,
    used_at timestamptz not null default now()
);

-- +goose Down
drop table handover;
drop index orders_customer;
