-- +goose Up
-- Whether somebody has shown to get the mails of this e-mail address.
alter table customer add column email_confirmed boolean not null default false;

-- +goose Down
alter table customer drop column email_confirmed;
