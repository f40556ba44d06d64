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

-- The log. Append-only, but that an erasure sets payload and salt to null, and a compaction the payload to null and the salt to '': the
-- digest covers only their hash. A dead row is vacuumed soon, so that new entries take its place.
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
) with (autovacuum_vacuum_scale_factor = 0.02);

-- How far a feed is compacted. It is not in the table feed, whose rows the writers lock.
create table feed_compaction (
    feed       text     primary key,
    position   bigint   not null default 0, -- the entries up to here were looked at: what they supersede is compacted
    compacted  bigint   not null default 0, -- the last of them that has superseded one that is compacted
    id         uuid,                        -- of this state: each step that compacts anything makes another one; null: there was none
    older_than interval                     -- the least age of all steps that compacted anything, without months
);

-- The head of each feed: position and digest of its last entry, whether the log has the entry of the mark, and what is compacted: the id of
-- that state, the cursor up to which entries have superseded others, and for how many nanoseconds superseded entries were kept at least. It reads the
-- log through the index, however long it is; for `exists` PostgreSQL may read all entries once.
create view feed_head as
select name, coalesce(e.position, 0) as position, coalesce(e.digest, sha256(convert_to(name, 'UTF8'))) as digest, erasures, listed,
       marked_position = 0 or coalesce((
           select digest = marked_digest from feed_entry where feed = name and position = marked_position), false) as is_whole,
       coalesce(c.id || ' ' || (
           select d.position || '-' || left(encode(d.digest, 'hex'), 12) from feed_entry as d
            where d.feed = name and d.position = least(c.compacted, e.position)) || ' ' || (least(extract(epoch from older_than), 9000000000) * 1000000000)::bigint, '') as compaction
  from feed left join lateral (select position, digest from feed_entry where feed = name order by position desc limit 1) as e on true
       left join feed_compaction as c on c.feed = name;

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
    mark   record;
    marked bytea;
begin
    select marked_position as position, marked_digest as digest, marked_at as set_at into mark from feed where name = feed_name for update;
    -- In the next statement: the snapshot of one that waits for a lock does not have what the lock's holder commits.
    -- This takes less time than the view feed_head.
    select position, digest, (select digest from feed_entry where feed = feed_name and position = mark.position) into at, running, marked
      from feed_entry where feed = feed_name order by position desc limit 1;
    if (mark.position = 0 or mark.digest = marked) is not true then
        raise exception 'the log of feed % lacks an entry that it had', feed_name
            using errcode = 'object_not_in_prerequisite_state', table = 'feed', hint = 'Restore all tables of one dump.';
    end if;
    at := coalesce(at, 0);
    running := coalesce(running, sha256(convert_to(feed_name, 'UTF8')));
    next_mark := case when mark.set_at between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute' then mark.position + 1000 else 0 end;
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
    if (select bool_or(version <> 1) from unnest(entries)) then
        perform feed_check(feed_name, entries);
    end if;
    begin
        insert into feed_entry select * from unnest(entries);
    exception when unique_violation then -- the index knows whether an entity is new, so that nothing else has to look
        perform feed_check(feed_name, entries);
        raise;
    end;
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
-- feed_compact_step takes the content from entries that have a newer version with a time longer ago than older_than. It looks at the next
-- max_entries entries as such newer versions, so that each entry is looked at once, and stops at the first one that is younger. One of
-- more than a day in the future is passed over, and supersedes nothing. looked is null while another process is at it. It locks none of
-- what writers lock, but the entries that it compacts, which only an erasure writes to.
create function feed_compact_step(
    feed_name text, older_than interval, max_entries int default 1000, out looked int, out compacted int, out bytes bigint)
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
    place feed_compaction;
    old   timestamptz := now() - older_than;
    until bigint;
    last  bigint;
begin
    if not coalesce(older_than >= interval '0', false) then
        raise exception 'superseded entries cannot be older than %', quote_nullable(older_than::text) using errcode = 'invalid_parameter_value';
    end if;
    insert into feed_compaction (feed) select name from feed where name = feed_name on conflict (feed) do nothing;
    select * into place from feed_compaction where feed = feed_name for update skip locked;
    if place.feed is null then
        if not exists (select from feed where name = feed_name) then
            raise exception 'there is no feed %', quote_nullable(feed_name) using errcode = 'undefined_object';
        end if;
        return;
    end if;
    place.position := least(place.position, (select position from feed_head where name = feed_name)); -- of a log that was restored alone
    select coalesce(min(position) filter (where updated > old and updated < now() + interval '1 day') - 1, max(position), place.position) into until
      from (select position, updated from feed_entry
             where feed = feed_name and position > place.position order by position limit max_entries) as next;
    looked := until - place.position;
    with superseded as materialized (
        select p.position, q.position as by, pg_column_size(p.payload) as size
          from feed_entry as q join feed_entry as p on p.feed = feed_name and p.entity_id = q.entity_id and p.version = q.version - 1
         where q.feed = feed_name and q.position > place.position and q.position <= until and q.updated <= old and p.payload is not null
           for update of p nowait),
    emptied as (
        update feed_entry as e set payload = null, salt = '' from superseded as s where e.feed = feed_name and e.position = s.position returning size, by)
    select count(*), coalesce(sum(size), 0), max(by) into compacted, bytes, last from emptied;
    if looked > 0 then
        update feed_compaction as c set position = until, compacted = coalesce(last, c.compacted),
               id = case when last is null then c.id else gen_random_uuid() end,
               older_than = case when last is null then c.older_than else least(c.older_than, now() - old) end -- a year has 365 days, or 366
         where feed = feed_name;
    end if;
exception when lock_not_available or serialization_failure then -- an erasure is being committed
    looked := null;
    compacted := null;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_compact calls feed_compact_step until all is compacted, and commits each step. A procedure that commits may set no search_path, so
-- that it names its schema.
do $do$
begin
    execute format($create$
create procedure feed_compact(feed_name text, older_than interval)
language plpgsql as $$
declare
    step    record;
    entries bigint := 0;
    bytes   bigint := 0;
    told    timestamptz := clock_timestamp();
    before  text := pg_size_pretty(pg_table_size(%2$L));
begin
    loop
        perform set_config('synchronous_commit', 'off', true); -- what a crash takes back is compacted again
        select * into step from %1$I.feed_compact_step(feed_name, older_than);
        commit;
        entries := entries + coalesce(step.compacted, 0);
        bytes := bytes + coalesce(step.bytes, 0);
        exit when coalesce(step.looked, 0) < 1000;
        if clock_timestamp() > told + interval '5 seconds' then
            raise notice '%% superseded entries compacted so far, with %%', entries, pg_size_pretty(bytes);
            told := clock_timestamp();
        end if;
    end loop;
    if step.looked is null then
        raise warning 'another process compacts feed %%, or erases: call it again', feed_name;
    end if;
    raise notice '%% superseded entries compacted, with %%; the table of all feeds had %%, and has %%, with room for new entries once it is vacuumed',
        entries, pg_size_pretty(bytes), before, pg_size_pretty(pg_table_size(%2$L));
end
$$
    $create$, current_schema(), format('%I.feed_entry', current_schema()));
end
$do$;
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
    foreach name in array array['feed_create(text)', 'feed_check_alone(text, feed_entry[])', 'feed_compact_step(text, interval, int)', 'feed_append(text, bigint, bytea, feed_entry[], uuid[])'] loop
        execute format('alter function %s set search_path = %I', name, current_schema());
    end loop;
end
$$;
-- +goose StatementEnd
