-- +goose Up

-- The head of each feed: how many entries it has and their running digest. Every append updates this row, last of
-- all statements of its transaction; the free space keeps those updates within the page (HOT).
create table feed (
    name     text   primary key,
    position bigint not null,
    digest   bytea  not null
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
-- feed_create makes an empty feed. For the migration of the source that publishes it.
create function feed_create(feed_name text) returns void
language sql as $$
    insert into feed (name, position, digest) values (feed_name, 0, sha256(convert_to(feed_name, 'UTF8')));
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- feed_append appends entries to a feed if its head still is (expected_position, expected_digest), else it raises
-- serialization_failure for table feed. Send it last, in one packet with the end of the transaction: from here on the
-- feed's other writers wait.
create function feed_append(
    feed_name text, expected_position bigint, expected_digest bytea,
    kinds text[], entity_ids uuid[], versions bigint[], updates timestamptz[],
    payloads bytea[], salts bytea[], payload_hashes bytea[], digests bytea[]
) returns void
language plpgsql as $$
begin
    update feed set position = expected_position + cardinality(digests), digest = digests[cardinality(digests)]
     where name = feed_name and position = expected_position and digest = expected_digest;
    if not found then
        raise exception 'the head of feed % is not at position %', feed_name, expected_position
            using errcode = 'serialization_failure', table = 'feed';
    end if;
    insert into feed_entry (feed, position, kind, entity_id, version, updated, payload, salt, payload_hash, digest)
    select feed_name, expected_position + e.n, e.kind, e.entity_id, e.version, e.updated, e.payload, e.salt, e.payload_hash, e.digest
      from unnest(kinds, entity_ids, versions, updates, payloads, salts, payload_hashes, digests)
           with ordinality as e (kind, entity_id, version, updated, payload, salt, payload_hash, digest, n);
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

-- +goose Down
drop function feed_guard, feed_append, feed_create;
drop table feed_entry, feed;
