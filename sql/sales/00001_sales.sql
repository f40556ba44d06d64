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
create index orders_customer on orders (customer_id, id); -- for a buyer's own list
-- For the few among the many. An index of what is in lines would cost every sale, and a model that sells is found on the
-- newest orders anyway.
create index orders_cancelled on orders (id) where status = 'cancelled';

-- What an Idempotency-Key was first used for, and the order it was answered with.
create table idempotency_key (
    key          text        primary key,
    request_hash bytea       not null,
    answer       bytea       not null,
    created_at   timestamptz not null default now() -- the oldest are deleted first
);
create index idempotency_key_created_at on idempotency_key (created_at);

-- Hand-overs from customers that were used. One that has expired may go.
create table handover (
    id      uuid        primary key,
    used_at timestamptz not null default now()
);

-- When the e-mail address of an account was confirmed, Unix microseconds, as the newest credential of it that came here
-- says. Older credentials have ended, and so have those of the guest who had the id before.
create table buyer_since (
    customer_id uuid   primary key,
    since       bigint not null
);

select feed_create('orders', personal => false);
