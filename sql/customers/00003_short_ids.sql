-- +goose Up
-- For the search by the end of an id, as pages show it.
create index on customer (right(id::text, 8));
