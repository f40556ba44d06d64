-- +goose Up

-- Entities that a source has erased: nothing that is said of them later is applied. It outlives a resync.
create table erased_entity (
    service   text        not null,
    feed      text        not null,
    id        uuid        not null,
    erased_at timestamptz not null default now(), -- when the service heard of it
    primary key (service, feed, id)
);

-- +goose Down
drop table erased_entity;
