-- +goose Up

-- How far a first copy or a resync has read a snapshot of the feed, while its cursor is 0: the head that the snapshot is of, a slash and
-- the entity after which the next page starts. Null: it reads none. It counts only if snapshot_since is the resync_since of now (null:
-- of no resync): a resync that begins, begins without.
alter table subscription add snapshot text, add snapshot_since timestamptz;

-- Where the feed has the first version of the entity; null: not known, since the entry did not come with a snapshot.
alter table resynced_entity add first_position bigint;
alter table rejected_entry add first_position bigint;
