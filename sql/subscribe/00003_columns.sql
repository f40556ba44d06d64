-- +goose Up

-- The columns that the copy was made with; null: an earlier version made it. A new one begins a resync, and a process that does not
-- know all of them does not copy.
alter table subscription add columns text[];
