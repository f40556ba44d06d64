-- +goose Up

alter table subscription
    -- What was set at run time; null: not set, the environment or the default rules.
    add column schedule      text,
    add column wait_seconds  int check (wait_seconds between 0 and 30),
    add column page_size     int check (page_size between 1 and 1000),
    add column paused        boolean     not null default false,
    -- A walk reads the feed again, from the start to its end, while the copy goes on serving. Null: none is under way.
    add column walk_cursor   text,
    add column walk_history  text        not null default '0', -- for the links of the walk: see the feed's parameter history
    add column walk_reason   text        not null default '',
    add column walk_since    timestamptz,
    -- The last walk that ended: by it the copy became that of another history, or was made again.
    add column generation    int         not null default 1,   -- 1 and how many walks have ended
    add column resynced_at   timestamptz,
    add column resync_reason text        not null default '';

-- The newest version of each entity that a walk has seen.
create table walked_entity (
    feed     text        not null references subscription,
    id       uuid        not null,
    version  bigint      not null,
    position bigint      not null,
    updated  timestamptz not null,
    entity   bytea,                -- null: deleted
    primary key (feed, id)
);
create index on walked_entity (feed, position);

-- Entries that could not be applied while their neighbours were: the newest such version of each entity.
create table rejected_entry (
    feed        text        not null references subscription,
    entity_id   uuid        not null,
    version     bigint      not null,
    position    bigint      not null,
    updated     timestamptz not null,
    entity      bytea,             -- null: the entity is deleted
    reason      text        not null,
    rejected_at timestamptz not null default now(),
    attempts    int         not null default 1,
    primary key (feed, entity_id)
);

-- +goose Down
drop table rejected_entry, walked_entity;
alter table subscription
    drop column schedule, drop column wait_seconds, drop column page_size, drop column paused, drop column walk_cursor,
    drop column walk_history, drop column walk_reason, drop column walk_since, drop column generation, drop column resynced_at,
    drop column resync_reason;
