-- +goose Up
-- For the search by the end of an id, as pages show it.
create index on mail (right(order_id::text, 8));
