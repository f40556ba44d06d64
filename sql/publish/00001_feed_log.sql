-- +goose Up

-- The head of each feed: how many entries it has and their running digest. Every append updates this row, last of
-- all statements of its transaction; the free space keeps those updates within the page (HOT).
create table feed (
    name     text   primary key,
    position bigint not null,
    digest   bytea  not null,
    erasures bigint not null default 0, -- how often something was erased: the pages are others since then
    -- The length in bytes of the list of erased ids, which lies outside of the database, when the feed last was as the list says. While
    -- the list has another length, as after the restore of a dump, nothing of the feed is served before the list is applied again. 0: the
    -- feed was never used with a list. (An entry of an entity that is erased is one without salt.)
    listed   bigint not null default 0
) with (fillfactor = 10);

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

-- +goose StatementBegin
-- feed_create makes an empty feed, or leaves the feed of this name as it is.
create function feed_create(feed_name text) returns void
language sql as $$
    insert into feed (name, position, digest) values (feed_name, 0, sha256(convert_to(feed_name, 'UTF8'))) on conflict (name) do nothing;
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_check raises integrity_constraint_violation for table feed_entry unless the entries may follow what the feed has: the versions
-- of an entity are 1, 2, 3 ..., and `updated` grows with them. That holds for as long as the head is locked. The plan is made
-- once, and by the index, also where it was made when the log was short.
create function feed_check(feed_name text, entries feed_entry[]) returns void
language plpgsql set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
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
-- feed_append appends entries to a feed, whole rows with their positions and digests, if its head still is (expected_position,
-- expected_digest), else it raises serialization_failure for table feed, and if feed_check passes them. If the log does not end
-- there, as after the restore of a single table, it raises object_not_in_prerequisite_state for table feed, or unique_violation for
-- table feed_entry. Of the erased entities it takes away all that the feed says. Send it last, in one packet with the end of the
-- transaction: from here on the feed's other writers wait.
create function feed_append(
    feed_name text, expected_position bigint, expected_digest bytea, entries feed_entry[], erased uuid[]
) returns void
language plpgsql as $$
begin
    update feed set position = expected_position + cardinality(entries), digest = entries[cardinality(entries)].digest,
           erasures = erasures + coalesce(cardinality(erased), 0)
     where name = feed_name and position = expected_position and digest = expected_digest;
    if not found then
        raise exception 'the head of feed % is not at position %', feed_name, expected_position
            using errcode = 'serialization_failure', table = 'feed';
    end if;
    if expected_position > 0 and not exists (
           select from feed_entry where feed = feed_name and position = expected_position and digest = expected_digest) then
        raise exception 'the log of feed % has no entry at its head, position %', feed_name, expected_position
            using errcode = 'object_not_in_prerequisite_state', table = 'feed';
    end if;
    perform feed_check(feed_name, entries);
    insert into feed_entry select * from unnest(entries);
    if cardinality(erased) > 0 then
        update feed_entry set payload = null, salt = null where feed = feed_name and entity_id = any (erased) and salt is not null;
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
    foreach name in array array['feed_create(text)', 'feed_check(text, feed_entry[])', 'feed_append(text, bigint, bytea, feed_entry[], uuid[])'] loop
        execute format('alter function %s set search_path = %I', name, current_schema());
    end loop;
end
$$;
-- +goose StatementEnd
