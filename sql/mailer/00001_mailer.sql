-- +goose Up

-- The copy of the orders feed, as far as a confirmation needs it.
create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null,
    customer_id uuid        not null,
    lines       jsonb       not null,
    total_cents bigint      not null,
    currency    text        not null,
    placed_at   timestamptz not null
);

-- The copy of the customers feed.
create table customers (
    id      uuid   primary key,
    version bigint not null,
    name    text   not null,
    email   text   not null
);

-- Customers whose account is deleted: nothing is sent to them.
create table deleted_customer (id uuid primary key);

-- The outbox: one confirmation per order that ever was.
create table mail (
    order_id       uuid        primary key,
    customer_id    uuid        not null,
    placed_at      timestamptz not null,
    -- pending   to be sent, once the customer has arrived and due_at is over
    -- sending   the end of the mail is on its way: whether it has arrived is known when the server replies
    -- sent      the server has taken it
    -- failed    the server has refused it for good
    -- skipped   the order was there before this service
    -- cancelled, withdrawn   never sent: the order was cancelled; the order or the customer is gone
    state          text        not null check (state in ('pending', 'sending', 'sent', 'failed', 'skipped', 'cancelled', 'withdrawn')),
    attempts       int         not null default 0,
    uncertain      int         not null default 0, -- of them ended without a reply
    due_at         timestamptz not null default now(),
    composed_at    timestamptz,                    -- its Date: when it was tried first
    sending_since  timestamptz,
    sent_at        timestamptz,
    reason         text        not null default '', -- why the last attempt failed
    -- To whom it was last tried, and what it said; null: not tried yet, or forgotten with the customer's account.
    recipient      text,
    recipient_name text,
    body           text
);
create index on mail (customer_id);
create index on mail (placed_at desc, order_id);
create index on mail (due_at) where state = 'pending';
create index on mail (sending_since) where state = 'sending';

-- +goose Down
drop table mail, deleted_customer, customers, orders;
