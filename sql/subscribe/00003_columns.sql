-- +goose Up

-- The columns that the copy is made with; null: an earlier version made it. A new one begins a resync, and a process that has others
-- does not copy.
alter table subscription add columns text[];

-- How often table_name and columns were set: a process that set them before must not copy any more, while one that set them later, as
-- where a dump was restored, sets them again.
alter table subscription add claims bigint not null default 0;
