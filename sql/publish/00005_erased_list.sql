-- +goose Up

-- The length in bytes of the list of erased ids, which lies outside of the database, when the feed last was as the list says. While
-- the list has another length, as after the restore of a dump, nothing of the feed is served before the list is applied again. 0: the
-- feed was never used with a list. (An entry of an entity that is erased is one without salt.)
alter table feed add column listed bigint not null default 0;

-- +goose Down
alter table feed drop column listed;
