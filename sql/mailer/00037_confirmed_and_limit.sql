-- +goose Up
alter table customers add column email_confirmed boolean not null default false;

-- The mails of the last hour that have arrived, or may have, for the limit of an address. A row outlives the customer's account: else
-- a new account with the same address would start over.
create table recent_mail (
    order_id uuid        not null,
    mailbox  bytea       not null, -- SHA-256 of what all forms of the address have in common
    began_at timestamptz not null, -- sending_since of the mail
    primary key (order_id, began_at)
);
create index on recent_mail (mailbox, began_at);
create index on recent_mail (began_at);

-- +goose Down
drop table recent_mail;
alter table customers drop column email_confirmed;
