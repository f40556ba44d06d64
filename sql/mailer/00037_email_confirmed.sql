-- +goose Up
alter table customers add column email_confirmed boolean not null default false;

-- +goose Down
alter table customers drop column email_confirmed;
