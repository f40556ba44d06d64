-- +goose Up
-- For the search by the end of an id, as pages show it.
create index on orders (right(id::text, 8));
create index on movement (right(order_id::text, 8)) where order_id is not null;
