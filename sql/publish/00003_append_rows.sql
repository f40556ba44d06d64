-- +goose Up

drop function feed_append(text, bigint, bytea, text[], uuid[], bigint[], timestamptz[], bytea[], bytea[], bytea[], bytea[], uuid[]);

-- +goose StatementBegin
-- feed_append appends entries to a feed, whole rows with their positions and digests, if its head still is (expected_position,
-- expected_digest), else it raises serialization_failure for table feed. Of the erased entities it takes away all that the feed
-- says. Send it last, in one packet with the end of the transaction: from here on the feed's other writers wait.
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
    insert into feed_entry select * from unnest(entries);
    if cardinality(erased) > 0 then
        update feed_entry set payload = null, salt = null where feed = feed_name and entity_id = any (erased) and salt is not null;
    end if;
end
$$;
-- +goose StatementEnd

-- +goose Down
drop function feed_append(text, bigint, bytea, feed_entry[], uuid[]);

-- +goose StatementBegin
create function feed_append(
    feed_name text, expected_position bigint, expected_digest bytea,
    kinds text[], entity_ids uuid[], versions bigint[], updates timestamptz[],
    payloads bytea[], salts bytea[], payload_hashes bytea[], digests bytea[], erased uuid[]
) returns void
language plpgsql as $$
begin
    update feed set position = expected_position + cardinality(digests), digest = digests[cardinality(digests)],
           erasures = erasures + coalesce(cardinality(erased), 0)
     where name = feed_name and position = expected_position and digest = expected_digest;
    if not found then
        raise exception 'the head of feed % is not at position %', feed_name, expected_position
            using errcode = 'serialization_failure', table = 'feed';
    end if;
    insert into feed_entry (feed, position, kind, entity_id, version, updated, payload, salt, payload_hash, digest)
    select feed_name, expected_position + e.n, e.kind, e.entity_id, e.version, e.updated, e.payload, e.salt, e.payload_hash, e.digest
      from unnest(kinds, entity_ids, versions, updates, payloads, salts, payload_hashes, digests)
           with ordinality as e (kind, entity_id, version, updated, payload, salt, payload_hash, digest, n);
    if cardinality(erased) > 0 then
        update feed_entry set payload = null, salt = null where feed = feed_name and entity_id = any (erased) and salt is not null;
    end if;
end
$$;
-- +goose StatementEnd
