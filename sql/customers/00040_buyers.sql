-- +goose Up

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
create index on customer (lower(email collate "C"));

-- +goose Down
drop index customer_lower_idx;
drop table sign_in_link, handover;
