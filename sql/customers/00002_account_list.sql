-- +goose Up
create index on customer (created_at, id); -- for the list of accounts
