-- +goose Up

-- The source that an entity comes from, of feeds whose sources have names. While it is there, no other source of the feed may say
-- anything of the entity. It is noted as the feed is read, and goes with the entity. A source without a name notes nothing, unless the
-- feed had others before it.
create table entity_owner (
    service text not null,
    feed    text not null, -- without the source: orders, where the subscription is to orders@eu
    id      uuid not null,
    source  text not null,
    primary key (service, feed, id)
);

-- The sources of a feed share the table of the copy.
alter table subscription add source text not null generated always as (split_part(feed, '@', 2)) stored;
drop index subscription_table_name_idx;
create unique index on subscription (table_name, source) where table_name <> '';
