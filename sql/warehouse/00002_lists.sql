-- +goose Up
create index on orders (id) where to_build;                     -- for the list of the orders to build
create index on movement (purchase, id) where purchase is not null; -- for the movements of a purchase
