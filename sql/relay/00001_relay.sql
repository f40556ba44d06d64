-- +goose Up

-- What of each feed RabbitMQ has confirmed. The subscription's cursor follows.
create table stream (
    feed         text        primary key,
    generation   bigint      not null default 1, -- counts how often the feed went out from its first entry
    position     bigint      not null default 0, -- of the entry that was confirmed last
    messages     bigint      not null default 0, -- that were confirmed, repetitions too
    confirmed_at timestamptz                     -- null: none was
);
