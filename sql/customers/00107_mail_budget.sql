-- +goose Up

-- Until when the sign-in mails to an address have used up what it gets, if no more are sent. The key is a hash, and the row goes when
-- that time is over: an address that nobody has any more is nowhere.
create table mail_budget (
    key        bytea       primary key,
    used_until timestamptz not null
);

-- +goose Down
drop table mail_budget;
