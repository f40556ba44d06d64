-- +goose Up

-- The feeds. An append locks this row, and seldom changes it: under an old snapshot, as pg_dump has one, each version of a row stays,
-- and every look at the row passes them all.
create table feed (
    name     text   primary key constraint feed_has_a_name check (name <> ''),
    erasures bigint not null default 0, -- how often something was erased: the pages are others since then
    -- The length in bytes of the list of erased ids, which lies outside of the database, when the feed last was as the list says. While
    -- the list has another length, as after the restore of a dump, nothing of the feed is served before the list is applied again. 0: the
    -- feed was never used with a list. (An entry of an entity that is erased is one without salt.)
    listed   bigint not null default 0,
    -- The mark: an entry that the log must have. A log without it is older than its feed, as after the restore of a single table. An append
    -- moves the mark to its last entry if that is 1,000 positions further, or if the mark is older than a minute, or of a clock that was ahead.
    marked_position bigint      not null default 0, -- 0: none
    marked_digest   bytea,
    marked_at       timestamptz not null default '-infinity'
);

-- The log. Append-only, but that an erasure sets payload and salt to null: the digest covers only their hash.
create table feed_entry (
    feed         text        not null,
    position     bigint      not null check (position > 0),
    kind         text        not null check (kind in ('put', 'delete')),
    entity_id    uuid        not null,
    version      bigint      not null check (version > 0),
    updated      timestamptz not null,
    payload      bytea,
    salt         bytea,
    payload_hash bytea       not null,
    digest       bytea       not null,
    primary key (feed, position),
    unique (feed, entity_id, version)
);

-- The head of each feed: position and digest of its last entry, and whether the log has the entry of the mark. It reads both through the
-- index, however long the log is; for `exists` PostgreSQL may read all entries once.
create view feed_head as
select name, coalesce(e.position, 0) as position, coalesce(e.digest, sha256(convert_to(name, 'UTF8'))) as digest, erasures, listed,
       marked_position = 0 or coalesce((
           select digest = marked_digest from feed_entry where feed = name and position = marked_position), false) as is_whole
  from feed left join lateral (select position, digest from feed_entry where feed = name order by position desc limit 1) as e on true;

-- +goose StatementBegin
-- feed_create makes an empty feed, or leaves the feed of this name as it is.
create function feed_create(feed_name text) returns void
language sql as $$
    insert into feed (name) values (feed_name) on conflict (name) do nothing;
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_check raises integrity_constraint_violation for table feed_entry unless the entries may follow what the feed has: the versions
-- of an entity are 1, 2, 3 ..., and `updated` grows with them. That holds for as long as the head is locked.
create function feed_check(feed_name text, entries feed_entry[]) returns void
language plpgsql as $$
declare
    wrong record;
begin
    select * into wrong from (
        select e.entity_id, e.version, e.updated, coalesce(lag(e.version) over earlier, last.version, 0) as before,
               coalesce(lag(e.updated) over earlier, last.updated) as updated_before
          from unnest(entries) as e left join lateral (
               select version, updated from feed_entry where feed = feed_name and entity_id = e.entity_id order by version desc limit 1) as last on true
        window earlier as (partition by e.entity_id order by e.position)) as e
     where version <> before + 1 or updated <= updated_before limit 1;
    if found then
        raise exception using errcode = 'integrity_constraint_violation', table = 'feed_entry', constraint = 'feed_check',
            detail = format('%s %s %s', wrong.entity_id, wrong.version, feed_name),
            message = case
                when wrong.version = wrong.before + 1 then format('is of %s, which is not later than %s, the time of the version before it',
                     wrong.updated at time zone 'utc', wrong.updated_before at time zone 'utc')
                when wrong.before = 0 then 'is the first of its entity: versions are 1, 2, 3 ...'
                else format('comes after version %s of its entity: versions are 1, 2, 3 ...', wrong.before) end;
    end if;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_check_alone is feed_check for those who call nothing else. The plan is made once, and by the index, also where it was made when the
-- log was short.
create function feed_check_alone(feed_name text, entries feed_entry[]) returns void
language plpgsql set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
    perform feed_check(feed_name, entries);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_lock locks a feed until the transaction ends, and gives its head, and the position from which on the mark is to move. It raises
-- object_not_in_prerequisite_state for table feed if the feed is gone or the log lacks the mark, as after the restore of a single table, and
-- serialization_failure if the transaction's snapshot is older than the head.
create function feed_lock(feed_name text, out at bigint, out running bytea, out next_mark bigint)
language plpgsql as $$
declare
    whole boolean;
begin
    select case when marked_at not between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute' then 0 else marked_position + 1000 end into next_mark
      from feed where name = feed_name for update;
    -- In the next statement: the snapshot of one that waits for a lock does not have what the lock's holder commits.
    select position, digest, is_whole into at, running, whole from feed_head where name = feed_name;
    if whole is not true then
        raise exception 'the log of feed % lacks an entry that it had', feed_name
            using errcode = 'object_not_in_prerequisite_state', table = 'feed', hint = 'Restore all tables of one dump.';
    end if;
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then -- only an index knows what is newer than the snapshot
        insert into feed_entry (feed, position, kind, entity_id, version, updated, payload_hash, digest)
        values (feed_name, at + 1, 'delete', gen_random_uuid(), 1, now(), '', '') on conflict (feed, position) do nothing;
        delete from feed_entry where feed = feed_name and position = at + 1;
    end if;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_append appends entries to a feed, whole rows with their positions and digests, if its head still is (expected_position,
-- expected_digest), else it raises serialization_failure for table feed, and if feed_lock and feed_check pass them. Of the erased entities
-- it takes away all that the feed says. Send it last, in one packet with the end of the transaction: from here on the feed's other
-- writers wait. The plans are made once, and by the indexes, also where they were made when the log was short.
create function feed_append(
    feed_name text, expected_position bigint, expected_digest bytea, entries feed_entry[], erased uuid[]
) returns void
language plpgsql set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    head   record := feed_lock(feed_name);
    new_at bigint := expected_position + cardinality(entries);
begin
    if head.at <> expected_position or head.running <> expected_digest then
        raise exception 'the head of feed % is not at position %', feed_name, expected_position
            using errcode = 'serialization_failure', table = 'feed';
    end if;
    perform feed_check(feed_name, entries);
    insert into feed_entry select * from unnest(entries);
    if cardinality(erased) > 0 then
        update feed_entry set payload = null, salt = null where feed = feed_name and entity_id = any (erased) and salt is not null;
    end if;
    if new_at >= head.next_mark or cardinality(erased) > 0 then
        update feed set marked_position = new_at, marked_digest = entries[cardinality(entries)].digest, marked_at = clock_timestamp(),
               erasures = erasures + coalesce(cardinality(erased), 0)
         where name = feed_name;
    end if;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_guard raises no_data_found unless ok, and so undoes the transaction. For statements that are sent before the
-- answers to earlier ones are read: `with changed as (update ... returning 1) select feed_guard(count(*) = 1) from changed`.
create function feed_guard(ok boolean) returns void
language plpgsql as $$
begin
    if ok is not true then
        raise exception 'what this transaction changes is not as it was read' using errcode = 'no_data_found', table = 'feed';
    end if;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- The functions find the tables of their own schema, whatever the search_path of the session that calls them.
do $$
declare
    name text;
begin
    foreach name in array array['feed_create(text)', 'feed_check_alone(text, feed_entry[])', 'feed_append(text, bigint, bytea, feed_entry[], uuid[])'] loop
        execute format('alter function %s set search_path = %I', name, current_schema());
    end loop;
end
$$;
-- +goose StatementEnd
