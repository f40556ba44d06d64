-- +goose Up

-- A copy of the source's orders: the same columns, and what a reader would look them up by.
create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null,
    customer_id uuid        not null,
    lines       jsonb       not null,
    total_cents bigint      not null,
    currency    text        not null,
    placed_at   timestamptz not null,
    updated_at  timestamptz not null
);
create index orders_customer on orders (customer_id);
create index orders_placed on orders (placed_at);

-- +goose Down
drop table orders;
