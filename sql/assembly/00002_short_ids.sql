-- +goose Up
-- For the search by the end of an id, as pages show it.
create index on build (right(id::text, 8));
create index on build (right(order_id::text, 8));
