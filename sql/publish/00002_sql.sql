-- +goose Up

-- The functions by which any program publishes that can send SQL: feed_put, feed_delete, feed_erase, and feed_attach for a whole table.
-- They only collect. One deferred trigger appends when the transaction commits, so that no other writer waits for a transaction
-- that idles.

-- Title and description are for readers. The entities of a personal feed can be erased.
alter table feed add column personal boolean not null default true,
    add column title text check (length(title) <= 200), add column description text check (length(description) <= 2000);

-- What the transactions that are under way will append. It is unlogged, since no row outlives its transaction.
create sequence feed_seq;
create unlogged table feed_pending (
    transaction xid8    not null default pg_current_xact_id(),
    feed        text    not null,
    entity_id   uuid    not null,
    seq         bigint  not null default nextval('feed_seq'),
    payload     bytea, -- null: the entity is deleted
    erase       boolean not null default false,
    first       boolean not null, -- of its transaction, or of a part of it that was not rolled back
    primary key (transaction, feed, entity_id)
);

-- What tables that are attached as staged have committed, until feed_move appends it. Of one entity, seq grows in the order of the
-- commits, since a transaction keeps the lock of the row that it changes. feed_move computes the ids of the entities: the writers have
-- less to do, and both indexes grow at their end.
create table feed_staged (
    transaction xid8        not null default pg_current_xact_id(),
    feed        text        not null,
    key         text        not null,
    seq         bigint      not null default nextval('feed_seq'),
    payload     bytea,
    staged_at   timestamptz not null default clock_timestamp(),
    primary key (transaction, feed, key)
);
create index on feed_staged (feed, seq);

drop function feed_create(text);

-- +goose StatementBegin
-- feed_create makes an empty feed, or leaves the feed of this name as it is. An empty feed is as any list of erased ids says.
create function feed_create(feed_name text, personal boolean default true, title text default null, description text default null)
returns void language sql as $$
    insert into feed (name, personal, title, description, listed)
    values (feed_name, personal, title, description, (select coalesce(max(listed), 0) from feed))
    on conflict (name) do nothing;
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_uuid gives the id of the entity with a key: the key itself if it is a UUID in lower case other than zero and of another version
-- than 8, else a UUID of version 8 (RFC 9562, section 5.8) whose other bits are the first of SHA-256 over datafeed:FEED:KEY. No key is
-- the id of another one: else a user who chooses a key could take the entity of another row.
create function feed_uuid(feed_name text, key text) returns uuid
language plpgsql immutable strict parallel safe as $$
begin
    if length(key) = 36 and key ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-79a-f][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$' and key <> '00000000-0000-0000-0000-000000000000' then
        return key::uuid;
    end if;
    return encode( -- the version 1000 in the bits 7 to 4 of byte 6, the variant 10 in the bits 7 and 6 of byte 8
        set_bit(set_bit(set_bit(set_bit(set_bit(set_bit(substring(sha256(convert_to('datafeed:' || feed_name || ':' || key, 'UTF8')) for 16),
            55, 1), 54, 0), 53, 0), 52, 0), 71, 1), 70, 0), 'hex')::uuid;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_entity is feed_uuid for a key of any type that keys have. It refuses keys that name no entity.
create function feed_entity(feed_name text, key anycompatible) returns uuid
language plpgsql immutable as $$
begin
    if pg_typeof(key) not in ('uuid', 'bigint', 'integer', 'smallint', 'text', 'varchar', 'bpchar') then -- before a cast that somebody may have made
        raise exception 'a key of type % names no entity', pg_typeof(key)
            using errcode = 'datatype_mismatch', hint = 'Keys are uuid, bigint or text: cast it to one of them.';
    elsif key is null then
        raise exception 'null names no entity' using errcode = 'invalid_parameter_value';
    end if;
    return feed_uuid(feed_name, key::text);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_payload gives the bytes of a JSON object as they are hashed and served. It refuses what no page can carry.
create function feed_payload(entity text) returns bytea
language plpgsql immutable strict as $$
declare
    body    bytea := convert_to(entity, 'UTF8');
    level   int := 0;
    deepest int := 0;
    c       text;
begin
    if strpos(entity, E'\\u') > 0 and regexp_replace(regexp_replace(entity, E'\\\\\\\\', '', 'g'),
           E'\\\\u[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2}', '', 'g') ~ E'\\\\u[dD][89a-fA-F]' then
        raise exception 'the entity has a half of a UTF-16 surrogate pair, which many readers of JSON refuse'
            using errcode = 'untranslatable_character', hint = E'Write the character itself, or both halves: \\ud83d\\ude97.';
    elsif octet_length(body) < 1000 then
        return body;
    elsif octet_length(body) > 262144 then
        raise exception 'the entity has % bytes; an entry takes up to 262144', octet_length(body) using errcode = 'program_limit_exceeded';
    elsif length(translate(entity, '{[', '')) < length(entity) - 500 then -- it may be too deep
        foreach c in array regexp_split_to_array(regexp_replace(entity, E'"(\\\\.|[^"\\\\])*"|[^][{}]', '', 'g'), '') loop
            level := level + case when c in ('{', '[') then 1 else -1 end;
            deepest := greatest(deepest, level);
        end loop;
        if deepest > 500 then
            raise exception 'the entity is nested % deep; an entry takes up to 500 levels', deepest using errcode = 'program_limit_exceeded';
        end if;
    end if;
    return body;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_require raises undefined_object if there is no such feed.
create function feed_require(feed_name text) returns void
language plpgsql stable security definer as $$
begin
    if not exists (select from feed where name = feed_name) then
        raise exception 'there is no feed %', quote_nullable(feed_name)
            using errcode = 'undefined_object', hint = format('select feed_create(%L) makes it.', feed_name);
    end if;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_is_erased reports whether an entity is erased: its last entry is one without salt.
create function feed_is_erased(feed_name text, id uuid) returns boolean
language plpgsql stable set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
    return coalesce((select salt is null from feed_entry where feed = feed_name and entity_id = id order by version desc limit 1), false);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_refuse_erased raises object_not_in_prerequisite_state if the entity is erased: its readers refuse it for ever.
create function feed_refuse_erased(feed_name text, id uuid) returns void
language plpgsql stable as $$
begin
    if feed_is_erased(feed_name, id) then
        raise exception 'entity % of feed % is erased', id, feed_name
            using errcode = 'object_not_in_prerequisite_state', hint = 'Its readers refuse it for ever: use another key.';
    end if;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_collect notes what becomes of an entity when the transaction commits. The last call for an entity counts, but an entity that is
-- erased stays so.
create function feed_collect(feed_name text, id uuid, body bytea, erasing boolean) returns void
language plpgsql as $$
begin
    insert into feed_pending as p (feed, entity_id, payload, erase, first)
    select name, id, body, erasing, not exists (select from feed_pending where transaction = pg_current_xact_id()) from feed where name = feed_name
    on conflict (transaction, feed, entity_id) do update set seq = excluded.seq, payload = excluded.payload, erase = p.erase or excluded.erase
     where not p.erase or excluded.payload is null;
    if not found then
        perform feed_require(feed_name);
        raise exception 'entity % of feed % is erased by this transaction', id, feed_name using errcode = 'object_not_in_prerequisite_state';
    end if;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_put publishes the state of an entity, a JSON object, as it is served: to_json(row), json_build_object(...). It gives the
-- entity's id. Nothing is published if the feed has the same state already.
create function feed_put(feed_name text, key anycompatible, entity json) returns uuid
language plpgsql security definer as $$
declare
    id   uuid := feed_entity(feed_name, key);
    body bytea;
begin
    if entity is null or json_typeof(entity) <> 'object' then
        raise exception 'the entity is not a JSON object' using errcode = 'invalid_parameter_value', hint = 'feed_delete publishes that an entity is gone.';
    end if;
    body := feed_payload(entity::text); -- not in the statement: PostgreSQL would plan that each time
    perform feed_collect(feed_name, id, body, false);
    return id;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_delete publishes that an entity is gone, if the feed has it. The same key may come back.
create function feed_delete(feed_name text, key anycompatible) returns uuid
language plpgsql security definer as $$
declare
    id uuid := feed_entity(feed_name, key);
begin
    perform feed_collect(feed_name, id, null, false);
    return id;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_erase takes away all that a personal feed says of an entity, and publishes that it is erased. The key can never be put again.
create function feed_erase(feed_name text, key anycompatible) returns uuid
language plpgsql security definer as $$
declare
    id uuid := feed_entity(feed_name, key);
begin
    perform feed_require(feed_name);
    if not (select personal from feed where name = feed_name) then
        raise exception 'feed % is not personal: nothing of it can be erased', feed_name
            using errcode = 'object_not_in_prerequisite_state', hint = 'feed_delete publishes that an entity is gone.';
    end if;
    perform feed_collect(feed_name, id, null, true);
    update feed_backfill set refused = array_remove(refused, key::text), later = array_remove(later, key::text) -- a key may say who it is
     where feed = feed_name and key::text = any (refused || later);
    return id;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_append_changes appends what this transaction has collected for a feed, after up to max_staged staged changes and all that are
-- staged of the same entities. It gives how many staged changes it took. The feed's other writers wait from here on until the
-- transaction ends. The plans are made once, and by the indexes, also where they were made when the log was short.
create function feed_append_changes(feed_name text, max_staged int) returns int
language plpgsql set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    head    record;
    at      bigint;
    running bytea;
    change  record;
    last    record;
    stamp   timestamptz;
    pepper  bytea;
    hash    bytea;
    taken   int := 0;
    erased  int := 0;
begin
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true); -- what readers have seen must not be lost in a crash
    end if;
    head := feed_lock(feed_name);
    at := head.at;
    running := head.running;
    for change in
        with mine as (
            delete from feed_pending where transaction = pg_current_xact_id() and feed = feed_name returning entity_id, seq, payload, erase),
        first as (
            delete from feed_staged where feed = feed_name
               and seq <= (select max(seq) from (select seq from feed_staged where feed = feed_name order by seq limit max_staged) as s) returning *),
        same as (
            delete from feed_staged where feed = feed_name and exists (select from mine) and feed_uuid(feed_name, key) in (select entity_id from mine)
            returning *)
        select true as is_staged, transaction <> pg_current_xact_id() as is_earlier, feed_uuid(feed_name, key) as entity_id, s.seq, s.payload,
               false as erase, s.staged_at as changed_at
          from (select * from first union all select * from same) as s
        union all
        select false, false, entity_id, seq, payload, erase, clock_timestamp() from mine
         order by is_earlier desc, seq
    loop
        taken := taken + change.is_staged::int;
        select version, updated, payload, salt is null as is_erased into last
          from feed_entry where feed = feed_name and entity_id = change.entity_id order by version desc limit 1;
        if last.is_erased and change.payload is not null and not change.is_staged then
            perform feed_refuse_erased(feed_name, change.entity_id);
        end if;
        continue when last.is_erased or not change.erase and last.payload is not distinct from change.payload;
        at := at + 1;
        stamp := greatest(change.changed_at, last.updated + interval '1 microsecond');
        pepper := uuid_send(gen_random_uuid());
        hash := sha256(pepper || coalesce(change.payload, ''));
        running := sha256(running || convert_to(case when change.payload is null then 'd' else 'p' end, 'UTF8') || uuid_send(change.entity_id)
            || int8send(coalesce(last.version, 0) + 1) || int8send((extract(epoch from stamp) * 1000000)::bigint) || hash);
        insert into feed_entry (feed, position, kind, entity_id, version, updated, payload, salt, payload_hash, digest)
        values (feed_name, at, case when change.payload is null then 'delete' else 'put' end, change.entity_id,
                coalesce(last.version, 0) + 1, stamp, change.payload, pepper, hash, running);
        if change.erase then
            erased := erased + 1;
            update feed_entry set payload = null, salt = null
             where feed = feed_name and entity_id = change.entity_id and salt is not null;
        end if;
    end loop;
    if at > head.at and at >= head.next_mark or erased > 0 then
        -- A source that keeps a list of erased ids takes over what was erased before it serves anything else: the length is wrong.
        update feed set marked_position = at, marked_digest = running, marked_at = clock_timestamp(), erasures = erasures + erased,
               listed = case when erased > 0 then -abs(listed) else listed end
         where name = feed_name;
    end if;
    return taken;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create function feed_commit() returns trigger
language plpgsql security definer as $$
declare
    feed_name text;
begin
    for feed_name in select distinct feed collate "C" from feed_pending where transaction = pg_current_xact_id() order by 1 loop
        perform feed_append_changes(feed_name, 0);
    end loop;
    return null;
end
$$;
-- +goose StatementEnd
create constraint trigger feed_commit after insert on feed_pending deferrable initially deferred for each row when (new.first) execute function feed_commit();
alter table feed_pending enable always trigger feed_commit; -- also for what logical replication applies

-- +goose StatementBegin
-- feed_move appends up to max_changes staged changes, and gives how many it took. Several processes may call it: one at a time goes on.
create function feed_move(feed_name text, max_changes int default 1000) returns int
language plpgsql as $$
begin
    if not exists (select from feed_staged where feed = feed_name) then
        return 0;
    end if;
    return feed_append_changes(feed_name, max_changes);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_render gives an entity: those members of a row that are published, in the order of the table.
create function feed_render(state json, columns text[]) returns text
language plpgsql immutable strict as $$
declare
    body  text;
    found int;
begin
    if array(select json_object_keys(state)) = columns then
        return state; -- the usual case, and the fastest
    end if;
    select '{' || string_agg(to_json(key)::text || ':' || value::text, ',') || '}', count(*) into body, found from json_each(state) where key = any (columns);
    if found < cardinality(columns) then
        raise exception 'a column that is published is not there any more: %',
              (select string_agg(c, ', ') from unnest(columns) as c where c not in (select json_object_keys(state)))
            using errcode = 'undefined_column', hint = 'Call feed_detach, then feed_attach with the columns that there are.';
    end if;
    return body;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_current is the row that has the key now, as JSON, or null.
create function feed_current(relation regclass, key_column name, key text) returns json
language plpgsql set row_security = off as $$
declare
    state json;
begin
    execute format('select row_to_json(feed_current_row) from %s as feed_current_row where %I = %L', relation, key_column, key) into state;
    return case when state ->> key_column = key then state end; -- another key may be equal by its collation
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_note collects or stages the row that has the key now, or that it is gone. It replaces what the transaction has noted of it.
-- Its args are those of feed_change.
create function feed_note(relation regclass, args text[], key text) returns void
language plpgsql as $$
declare
    id   uuid := feed_uuid(args[0], key);
    body bytea := feed_payload(feed_render(feed_current(relation, args[1], key), args[3:]));
begin
    if args[2] = 'commit' then
        perform feed_collect(args[0], id, body, false);
        return;
    end if;
    if body is not null then
        perform feed_refuse_erased(args[0], id);
    end if;
    insert into feed_staged (feed, key, payload) values (args[0], key, body)
    on conflict on constraint feed_staged_pkey do update set seq = excluded.seq, payload = excluded.payload;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_change is the trigger of a table that is attached: its arguments are the feed, the key, the mode and the columns. Under its
-- settings the same row gives the same bytes in every session. It notes the row that it is told of by one insert. That inserts nothing
-- if the entity is erased, or if the transaction has changed the row before: then a trigger of the app may have changed it again since,
-- and what is in the table counts.
create function feed_change() returns trigger
language plpgsql security definer
set timezone = 'UTC' set datestyle = 'ISO' set extra_float_digits = 1 set intervalstyle = 'postgres' set bytea_output = 'hex' as $$
declare
    state json;
    was   text;
    key   text;
    id    uuid;
    body  bytea;
begin
    if current_setting('session_replication_role') = 'replica' then
        if exists (select from pg_subscription_rel where srrelid = 'feed_entry'::regclass) then
            return null; -- the log is replicated, too
        end if;
    end if;
    if tg_op <> 'DELETE' then
        state := row_to_json(new);
        key := state ->> tg_argv[1];
    end if;
    if tg_op <> 'INSERT' then
        was := row_to_json(old) ->> tg_argv[1];
        if was <> key then
            perform feed_note(tg_relid, tg_argv, was);
        end if;
        key := coalesce(key, was);
    end if;
    if tg_argv[2] = 'staged' then
        insert into feed_staged (feed, key, payload)
        select name, key, case
                   when octet_length(state::text) < 1000 and strpos(state::text, E'\\u') = 0 and array(select json_object_keys(state)) = tg_argv[3:]
                   then convert_to(state::text, 'UTF8') -- the usual case, without two calls
                   else feed_payload(feed_render(state, tg_argv[3:])) end
          from feed where name = tg_argv[0] and (erasures = 0 or not feed_is_erased(name, feed_uuid(name, key)))
        on conflict do nothing;
    else
        id := feed_uuid(tg_argv[0], key); -- not in the statement: PostgreSQL would plan that each time
        if octet_length(state::text) < 1000 and strpos(state::text, E'\\u') = 0 and array(select json_object_keys(state)) = tg_argv[3:] then
            body := convert_to(state::text, 'UTF8');
        else
            body := feed_payload(feed_render(state, tg_argv[3:]));
        end if;
        insert into feed_pending (feed, entity_id, payload, first)
        values (tg_argv[0], id, body, not exists (select from feed_pending where transaction = pg_current_xact_id()))
        on conflict do nothing;
    end if;
    if not found then
        perform feed_note(tg_relid, tg_argv, key);
    end if;
    return null;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create function feed_refuse_truncate() returns trigger
language plpgsql as $$
begin
    raise exception 'table % is attached to a feed: truncate would leave its readers with rows that are gone', tg_relid::regclass
        using errcode = 'object_not_in_prerequisite_state', hint = 'Use delete, or feed_detach first.';
end
$$;
-- +goose StatementEnd

-- The tables that are attached.
create view feed_attached as
select args[1] as feed, relation, trigger, args[2] as key, args[4:] as columns, args[3] as mode
  from (select tgrelid::regclass as relation, tgname as trigger,
               array(select convert_from(decode(arg, 'hex'), getdatabaseencoding())
                       from regexp_split_to_table(regexp_replace(encode(tgargs, 'hex'), '(..)', E'\\1 ', 'g'), '00 ') with ordinality as a (spaced, n),
                            replace(spaced, ' ', '') as arg
                      where n <= tgnargs order by n) as args
          from pg_trigger where tgfoid = 'feed_change'::regproc and tgparentid = 0) as a;

-- +goose StatementBegin
-- feed_attach publishes a table from now on: each row as it is when a transaction commits that has changed it. In the mode `commit` it is
-- on the feed with the commit, in the order of all commits; writers to one feed wait for each other's commit. In the mode `staged` they
-- do not: the process that serves the feed appends what they have committed a moment later, in order of each row. Without columns,
-- it publishes all that the table has now. Only the table's owner can attach it.
create function feed_attach(feed_name text, relation regclass, key name, columns text[] default null, mode text default 'commit')
returns void language plpgsql as $$
declare
    t       pg_class;
    there   text[];
    missing text;
    other   regclass;
    owner   regrole; -- of the feeds
begin
    perform feed_require(feed_name);
    select * into t from pg_class where oid = relation;
    select array_agg(attname::text order by attnum) into there from pg_attribute where attrelid = relation and attnum > 0 and not attisdropped;
    columns := coalesce(columns, there);
    if t.relkind = 'p' or t.relispartition then
        raise exception '% is partitioned: its partitions can be truncated and detached, of which its readers would not hear', relation
            using errcode = 'wrong_object_type', hint = 'Call feed_put and feed_delete from triggers of your own.';
    elsif t.relkind <> 'r' or t.relpersistence <> 'p' then
        raise exception '% is not a table that keeps its rows', relation
            using errcode = 'wrong_object_type', hint = 'Attach the table that a view reads; call feed_put where rows are written elsewhere.';
    elsif exists (select from pg_inherits where relation in (inhparent, inhrelid)) then
        raise exception '% inherits from a table, or others inherit from it', relation
            using errcode = 'wrong_object_type', hint = 'The rows of each such table have triggers of their own: end the inheritance.';
    elsif not pg_has_role(current_user, t.relowner, 'usage') then
        raise exception 'only the owner of % can attach it', relation using errcode = 'insufficient_privilege', hint = format('Set role %s.', t.relowner::regrole);
    elsif mode not in ('commit', 'staged') or mode is null then
        raise exception 'there is no mode %', quote_nullable(mode) using errcode = 'invalid_parameter_value', hint = 'It is commit or staged.';
    end if;
    select string_agg(quote_ident(c), ', ') into missing from unnest(columns || key::text) as c where c <> all (there) or c is null;
    if cardinality(columns) > (select count(distinct c) from unnest(columns) as c) then
        raise exception 'a column of % is named twice', relation using errcode = 'duplicate_column';
    elsif octet_length(feed_name) > 45 then
        raise exception 'the name of feed % is too long for the triggers of a table: it may have 45 bytes', feed_name using errcode = 'name_too_long';
    elsif missing is not null or cardinality(columns) = 0 then
        raise exception '% has no column %', relation, coalesce(missing, 'that is named')
            using errcode = 'undefined_column', hint = 'It has ' || array_to_string(there, ', ') || '.';
    elsif not exists (
        select from pg_index i join pg_attribute a on a.attrelid = relation and a.attnum = i.indkey[0]
         where i.indrelid = relation and i.indisunique and i.indisvalid and i.indimmediate and i.indnkeyatts = 1 and i.indpred is null
               and i.indcollation[0] = a.attcollation and a.attname = key and a.attnotnull and a.atttypid in ('uuid'::regtype, 'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype, 'text'::regtype, 'varchar'::regtype)) then
        raise exception 'column % is no key of %', key, relation using errcode = 'invalid_parameter_value',
              hint = 'A key is uuid, bigint, integer or text, not null, and has a unique index of its own, in its collation, that is not deferrable.';
    end if;
    select string_agg(quote_ident(attname), ', ') into missing from pg_attribute a join pg_type on pg_type.oid = atttypid
     where attrelid = relation and attname = any (columns)
           and (atttypid = 'money'::regtype or exists (select from pg_cast where castsource in (atttypid, typelem) and casttarget = 'json'::regtype and castfunc <> 0));
    if missing is not null then
        raise exception 'of these columns of % it depends on more than the row how they are written: %', relation, missing using errcode = 'invalid_parameter_value',
              hint = 'Leave them out: money is written as the session says, and a cast to json runs code with the rights of the owner of the feeds.';
    end if;
    select relowner::regrole into owner from pg_class where oid = 'feed_attached'::regclass;
    execute format('grant select on %s to %s', relation, owner); -- for feed_current
    if not has_schema_privilege(owner, t.relnamespace, 'usage') then
        raise exception 'the owner of the feeds may not read %', relation
            using errcode = 'insufficient_privilege', hint = format('grant usage on schema %s to %s.', t.relnamespace::regnamespace, owner);
    elsif t.relrowsecurity and not (select rolsuper or rolbypassrls from pg_roles where oid = owner) and t.relowner <> owner then
        raise exception 'policies may hide rows of % from the owner of the feeds', relation
            using errcode = 'insufficient_privilege', hint = format('alter role %s bypassrls.', owner);
    end if;
    select a.relation into other from feed_attached a where a.feed = feed_name;
    if found then
        raise exception 'feed % has % already', feed_name, other
            using errcode = 'duplicate_object', hint = format('Call feed_detach(%L) first.', feed_name);
    end if;
    execute format('create trigger %I after insert or update or delete on %s for each row execute function feed_change(%s)',
        'feed_' || feed_name, relation, (select string_agg(quote_literal(a), ', ' order by n) from unnest(array[feed_name, key, mode] || columns) with ordinality as t (a, n)));
    execute format('create trigger %I before truncate on %s for each statement execute function feed_refuse_truncate()',
        'feed_no_truncate_' || feed_name, relation);
    execute format('alter table %s enable always trigger %I, enable always trigger %I', relation, 'feed_' || feed_name, 'feed_no_truncate_' || feed_name);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_detach ends what feed_attach began. What the feed has stays.
create function feed_detach(feed_name text) returns void
language plpgsql as $$
declare
    attached regclass;
begin
    select relation into attached from feed_attached where feed = feed_name;
    if not found then
        raise exception 'no table is attached to feed %', quote_nullable(feed_name) using errcode = 'undefined_object';
    end if;
    execute format('drop trigger %I on %s', 'feed_' || feed_name, attached);
    execute format('drop trigger %I on %s', 'feed_no_truncate_' || feed_name, attached);
end
$$;
-- +goose StatementEnd

-- Which log this is. A dump takes it along, so that a list of erased ids is of one log and of what is restored from its dumps.
create table feed_log (id uuid primary key default gen_random_uuid());
insert into feed_log default values;

-- Rows that were there before their table was attached, and have yet to be published.
create table feed_backfill (
    feed        text        primary key,
    relation    regclass    not null,
    after       text, -- the key of the last row that was looked at, or null
    later       text[]      not null default '{}', -- keys of rows that somebody had locked
    rows        bigint      not null default 0,
    refused     text[]      not null default '{}', -- keys of rows that no entry can carry
    begun_at    timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    error       text -- of the last step
);

-- +goose StatementBegin
-- feed_backfill asks the process that serves the feed to publish the rows that its table has already.
create function feed_backfill(feed_name text) returns void
language plpgsql security definer as $$
begin
    if not exists (select from feed_attached where feed = feed_name) then
        raise exception 'no table is attached to feed %', quote_nullable(feed_name) using errcode = 'undefined_object', hint = 'Call feed_attach first.';
    end if;
    delete from feed_backfill where feed = feed_name;
    insert into feed_backfill (feed, relation) select feed, relation from feed_attached where feed = feed_name;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_backfill_step publishes the next rows of a backfill, and gives how many it looked at, 0 also while another process is at it, or
-- null at the end. A row that somebody has locked comes later. What the feed says already is left out, and so is a row that no entry can
-- carry: the table feed_backfill names it. Its caller needs the rights to read and to lock the rows of the table.
create function feed_backfill_step(feed_name text, max_rows int default 1000) returns int
language plpgsql set row_security = off -- an error where a policy would hide rows
set lock_timeout = '50ms' -- other feeds wait for it
set enable_sort = off -- the last version of an entity by its index, also while the statistics do not know the feed
set timezone = 'UTC' set datestyle = 'ISO' set extra_float_digits = 1 set intervalstyle = 'postgres' set bytea_output = 'hex' as $$
declare
    b    feed_backfill;
    a    feed_attached;
    type text;
    keys text[];
    done text[] := '{}';
    bad  text[] := '{}';
begin
    select * into b from feed_backfill where feed = feed_name and finished_at is null for update skip locked;
    select * into a from feed_attached where feed = feed_name;
    if b.feed is null then
        return 0;
    elsif a.relation is distinct from b.relation then
        raise exception 'its table was detached' using errcode = 'object_not_in_prerequisite_state', hint = 'Call feed_attach and feed_backfill again, or delete the row of feed_backfill.';
    end if;
    select format_type(atttypid, null) into type from pg_attribute where attrelid = a.relation and attname = a.key;
    execute format('select array(select t.%1$I::text from %2$s as t where $1 is null or t.%1$I > $1::%3$s order by t.%1$I limit $2)', a.key, a.relation, type)
       into keys using b.after, max_rows;
    b.after := coalesce(keys[cardinality(keys)], b.after);
    if cardinality(keys) = 0 then -- what is still there of the rows that were locked
        execute format('select array(select t.%1$I::text from %2$s as t where t.%1$I = any ($1::%3$s[]) limit $2)', a.key, a.relation, type)
           into keys using b.later, max_rows;
        b.later := case when cardinality(keys) < max_rows then keys else b.later end;
    else
        b.later := b.later || keys;
    end if;
    begin
        execute format($q$
        with locked as (
            select %1$I::text as key, row_to_json(feed_backfill_row) as state from %2$s as feed_backfill_row where %1$I = any ($1::%3$s[]) for share skip locked),
        pending as (
            insert into feed_pending (feed, entity_id, payload, first)
            select $2, id, feed_payload(feed_render(state, $3)), row_number() over () = 1 from locked, feed_uuid($2, key) as id
             where (select salt is null from feed_entry where feed = $2 and entity_id = id order by version desc limit 1) is not true)
        select array(select key from locked)$q$, a.key, a.relation, type)
           into done using keys, feed_name, a.columns;
    exception when program_limit_exceeded or untranslatable_character then -- one of them: fewer until it is alone
        if max_rows > 1 then
            return feed_backfill_step(feed_name, max_rows / 2);
        end if;
        bad := keys;
    end;
    update feed_backfill set after = case when cardinality(keys) > 0 then b.after end, rows = rows + cardinality(done), refused = refused || bad,
           error = case when cardinality(refused || bad) > 0 then cardinality(refused || bad) || ' rows cannot be entries, as they are too large, too deep, or have half a character: see refused' end,
           later = case when cardinality(keys) > 0 then array(select unnest(b.later) except select unnest(done || bad)) else '{}' end,
           finished_at = case when cardinality(keys) = 0 then clock_timestamp() end
     where feed = feed_name;
    return nullif(cardinality(done), case when cardinality(keys) = 0 then 0 else -1 end);
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_grant lets a role publish to every feed of the schema. It needs no right to the tables of the log.
create function feed_grant(role regrole) returns void
language plpgsql as $$
begin
    execute format('grant usage on schema %I to %s', current_schema(), role);
    execute format('grant select on feed_attached to %s', role);
    execute format('grant execute on function feed_put(text, anycompatible, json), feed_delete(text, anycompatible), feed_erase(text, anycompatible),
        feed_require(text), feed_change(), feed_refuse_truncate(), feed_attach(text, regclass, name, text[], text), feed_detach(text), feed_backfill(text) to %s', role);
end
$$;
-- +goose StatementEnd

revoke execute on function feed_put(text, anycompatible, json), feed_delete(text, anycompatible), feed_erase(text, anycompatible), feed_require(text),
    feed_commit(), feed_change(), feed_refuse_truncate(), feed_attach(text, regclass, name, text[], text), feed_detach(text), feed_backfill(text) from public;

-- +goose StatementBegin
-- The functions that others call find the tables of their own schema, whatever the search_path of the session is. Those that only these
-- call have none of their own, since setting it takes time.
do $$
declare
    f regprocedure;
begin
    for f in select oid::regprocedure from pg_proc where pronamespace = (select oid from pg_namespace where nspname = current_schema())
                and proname = any ('{feed_create,feed_require,feed_put,feed_delete,feed_erase,feed_commit,feed_move,feed_change,feed_attach,feed_detach,
                                     feed_backfill,feed_backfill_step,feed_grant,feed_refuse_truncate}') loop
        execute format('alter function %s set search_path = %I, pg_temp', f, current_schema());
    end loop;
end
$$;
-- +goose StatementEnd
