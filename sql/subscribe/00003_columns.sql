-- +goose Up

-- The columns that the copy is made with; null: an earlier version made it. A new one begins a resync, and a process that has others
-- does not copy.
alter table subscription add columns text[];
