-- +goose Up
create table customer (
    id          uuid        primary key,
    version     bigint      not null,
    name        text        not null,
    email       text        not null,
    street      text        not null,
    postal_code text        not null,
    city        text        not null,
    country     text        not null,
    created_at  timestamptz not null,
    updated_at  timestamptz not null
);

-- What an Idempotency-Key was first used for, and the customer it was answered with. It goes with the customer.
create table idempotency_key (
    key          text        primary key,
    request_hash bytea       not null,
    answer       bytea       not null,
    customer_id  uuid        not null references customer on delete cascade,
    created_at   timestamptz not null default now() -- to delete old ones by
);
create index on idempotency_key (customer_id);

select feed_create('customers');

-- +goose Down
delete from feed_entry where feed = 'customers';
delete from feed where name = 'customers';
drop table idempotency_key, customer;
