-- +goose Up

-- The operators that are logged in to the pages of a service. Services that share a schema share the table.
create table operator_session (
    hash    bytea       primary key, -- SHA-256 of what the browser has in its cookie
    service text        not null,
    token   bytea       not null,    -- SHA-256 of the token of the login: the session ends with it
    ends_at timestamptz not null
);
