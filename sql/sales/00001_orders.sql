-- +goose Up
create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null check (status in ('placed', 'cancelled')),
    customer_id uuid        not null,
    lines       jsonb       not null,
    total_cents bigint      not null check (total_cents > 0),
    currency    text        not null,
    placed_at   timestamptz not null,
    updated_at  timestamptz not null
);

-- What an Idempotency-Key was first used for, and the order it was answered with.
create table idempotency_key (
    key          text        primary key,
    request_hash bytea       not null,
    answer       bytea       not null,
    created_at   timestamptz not null default now() -- to delete old ones by
);

select feed_create('orders');

-- +goose Down
delete from feed_entry where feed = 'orders';
delete from feed where name = 'orders';
drop table idempotency_key, orders;
