-- +goose Up
create table customer (
    id              uuid        primary key,
    version         bigint      not null,
    name            text        not null,
    email           text        not null,
    street          text        not null,
    postal_code     text        not null,
    city            text        not null,
    country         text        not null,
    created_at      timestamptz not null,
    updated_at      timestamptz not null,
    email_confirmed boolean     not null default false -- a link that was sent to the address was used
);
create index on customer (lower(email collate "C"));

-- What an Idempotency-Key was first used for, and the customer it was answered with. It goes with the customer.
create table idempotency_key (
    key          text        primary key,
    request_hash bytea       not null,
    answer       bytea       not null,
    customer_id  uuid        not null references customer on delete cascade,
    created_at   timestamptz not null default now() -- the oldest are deleted first
);
create index on idempotency_key (customer_id);
create index idempotency_key_created_at on idempotency_key (created_at);

-- Hand-overs from sales that were used. One that has expired may go.
create table handover (
    id      uuid        primary key,
    used_at timestamptz not null default now()
);

-- Links that were sent by mail and not used. They go with the account.
create table sign_in_link (
    hash        bytea       primary key, -- SHA-256 of the secret in it
    customer_id uuid        not null references customer on delete cascade,
    email       text        not null, -- to which it was sent
    expires_at  timestamptz not null
);
create index on sign_in_link (customer_id);
create index on sign_in_link (expires_at);

-- When the e-mail address of an account was confirmed, Unix microseconds: credentials that were given out before have
-- ended. It goes with the account.
create table buyer_since (
    customer_id uuid   primary key references customer on delete cascade,
    since       bigint not null
);

-- Until when the sign-in mails to an address have used up what it gets, if no more are sent. The key is a hash, and the row goes when
-- that time is over: an address that nobody has any more is nowhere.
create table mail_budget (
    key        bytea       primary key,
    used_until timestamptz not null
);

select feed_create('customers');
