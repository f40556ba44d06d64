-- +goose Up

-- How far the copy of each feed is. The cursor moves in the transaction that applies what lies before it. Services that share a
-- database have rows of their own.
create table subscription (
    service         text        not null,
    feed            text        not null,
    cursor          text        not null default '0',
    etag            text        not null default '', -- of the last answer for etag_url
    etag_url        text        not null default '',
    head_position   bigint      not null default 0,  -- where the source's feed ended when it was last asked
    as_of           timestamptz,                     -- the copy is what the source had then
    last_success_at timestamptz,                     -- when the source was last reached and nothing was left to copy
    failing_since   timestamptz,                     -- the first poll since the last success failed then; null: none did
    stale           boolean     not null default false, -- the copy was seen to be stale, and no poll has succeeded since
    -- Where the source's feed ended when the service first saw it; null: it has not, or does not ask. 0 once the source has another
    -- history, if all of the past was copied by then.
    past            bigint,
    table_name      text        not null default '', -- which holds the copy; empty: none does
    -- A resync reads the feed again, from the start to its end, while the copy goes on serving. Null: none is under way.
    resync_cursor   text,
    resync_history  text        not null default '0', -- for the links of the resync: see the feed's parameter history
    resync_reason   text        not null default '',
    resync_since    timestamptz,
    -- The last resync that ended: by it the copy became that of another history, or was made again.
    generation      int         not null default 1,   -- 1 and how many resyncs have ended
    resynced_at     timestamptz,
    resynced_reason text        not null default '',
    primary key (service, feed)
);
create unique index on subscription (table_name) where table_name <> '';

-- What was set at run time has rows of its own: a change does not wait for a long transaction that moves the cursor.
create table subscription_setting (
    service      text    not null,
    feed         text    not null,
    schedule     text,           -- null, as in the next two: the environment or the default rules
    wait_seconds int     check (wait_seconds between 0 and 30),
    page_size    int     check (page_size between 1 and 1000),
    paused       boolean not null default false,
    tuned_at     timestamptz,    -- when the schedule was last changed at run time; null: never
    stale_tuned  timestamptz,    -- the copy whose last success was then (-infinity: never) was stale when it was changed
    primary key (service, feed),
    foreign key (service, feed) references subscription on update cascade on delete cascade
);

-- The newest version of each entity that a resync has seen, and, if a bad one came after it, the last of those.
create table resynced_entity (
    service  text        not null,
    feed     text        not null,
    id       uuid        not null,
    version  bigint      not null,
    position bigint      not null,
    updated  timestamptz not null,
    entity   bytea,                -- null: deleted
    bad      boolean     not null default false, -- it is malformed, or breaks the contract
    primary key (service, feed, id, bad),
    foreign key (service, feed) references subscription on update cascade on delete cascade
);
create index on resynced_entity (service, feed, position);

-- Entries that could not be applied while their neighbours were: the newest such version of each entity, and beside it, if a version
-- came after it that was never applied, since it is malformed or breaks the contract, the last of those.
create table rejected_entry (
    service     text        not null,
    feed        text        not null,
    entity_id   uuid        not null,
    version     bigint      not null,
    position    bigint      not null,
    updated     timestamptz not null,
    entity      bytea,             -- null: the entity is deleted
    reason      text        not null,
    rejected_at timestamptz not null default now(),
    attempts    int         not null default 1,
    checked     boolean     not null default false, -- it is malformed, or breaks the contract
    primary key (service, feed, entity_id, checked),
    foreign key (service, feed) references subscription on update cascade on delete cascade
);

-- Entities that a source has erased: nothing that is said of them later is applied. It outlives a resync.
create table erased_entity (
    service   text        not null,
    feed      text        not null,
    id        uuid        not null,
    erased_at timestamptz not null default now(), -- when the service heard of it
    primary key (service, feed, id)
);

-- How many rows a table has of each kind, and a sum over them, kept by triggers: a page that shows it reads a few rows, however
-- large the table is. Writers of a table wait for one another here.
create table row_count (
    relation text   not null, -- the table
    value    text   not null, -- what its rows are counted by
    rows     bigint not null,
    total    bigint not null,
    primary key (relation, value)
) with (fillfactor = 50);

-- count_rows takes two expressions over the columns of the table: what to count by, null for rows that do not count, and what to
-- sum up. It finds row_count, and what the expressions name, beside the table, whatever the search_path of the session is: pg_restore
-- has an empty one.
-- +goose StatementBegin
create function count_rows() returns trigger language plpgsql as $$
declare
    changed text := concat_ws(' union all ',
        case when tg_op <> 'DELETE' then format('select %s as value, 1 as rows, (%s)::bigint as total from new_rows', tg_argv[0], tg_argv[1]) end,
        case when tg_op <> 'INSERT' then format('select %s as value, -1 as rows, -(%s)::bigint as total from old_rows', tg_argv[0], tg_argv[1]) end);
    path text := current_setting('search_path');
begin
    if tg_op = 'TRUNCATE' then
        execute format('delete from %I.row_count where relation = %L', tg_table_schema, tg_table_name);
        return null;
    end if;
    perform set_config('search_path', quote_ident(tg_table_schema), true);
    execute format('
        insert into row_count as r (relation, value, rows, total)
        select %L, value, sum(rows), sum(total) from (%s) as changed where value is not null
         group by value having sum(rows) <> 0 or sum(total) <> 0 order by value
        on conflict (relation, value) do update set rows = r.rows + excluded.rows, total = r.total + excluded.total', tg_table_name, changed);
    perform set_config('search_path', path, true);
    return null;
end
$$;
-- +goose StatementEnd

-- keep_row_count counts the rows of a table from now on.
-- +goose StatementBegin
create function keep_row_count(relation text, value text, total text default '0') returns void language plpgsql as $$
begin
    execute format('create trigger row_count_insert after insert on %I referencing new table as new_rows
        for each statement execute function count_rows(%L, %L)', relation, value, total);
    execute format('create trigger row_count_update after update on %I referencing old table as old_rows new table as new_rows
        for each statement execute function count_rows(%L, %L)', relation, value, total);
    execute format('create trigger row_count_delete after delete on %I referencing old table as old_rows
        for each statement execute function count_rows(%L, %L)', relation, value, total);
    execute format('create trigger row_count_truncate after truncate on %I for each statement execute function count_rows()', relation);
    execute format('insert into row_count
        select %L, value, count(*), sum(total) from (select %s as value, %s as total from %I) as counted where value is not null group by value',
        relation, value, total, relation);
end
$$;
-- +goose StatementEnd
