-- +goose Up

-- When the e-mail address of an account was confirmed, Unix microseconds: credentials that were given out before have
-- ended. It goes with the account.
create table buyer_since (
    customer_id uuid   primary key references customer on delete cascade,
    since       bigint not null
);

-- +goose Down
drop table buyer_since;
