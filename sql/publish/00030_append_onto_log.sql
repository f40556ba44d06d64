-- +goose Up

-- +goose StatementBegin
-- feed_append appends entries to a feed, whole rows with their positions and digests, if its head still is (expected_position,
-- expected_digest), else it raises serialization_failure for table feed. If the log does not end there, as after the restore of a
-- single table, it raises object_not_in_prerequisite_state for table feed, or unique_violation for table feed_entry. Of the erased
-- entities it takes away all that the feed says. Send it last, in one packet with the end of the transaction: from here on the
-- feed's other writers wait.
create or replace function feed_append(
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
    insert into feed_entry select * from unnest(entries);
    if cardinality(erased) > 0 then
        update feed_entry set payload = null, salt = null where feed = feed_name and entity_id = any (erased) and salt is not null;
    end if;
end
$$;
-- +goose StatementEnd

-- +goose Down

-- +goose StatementBegin
create or replace function feed_append(
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
