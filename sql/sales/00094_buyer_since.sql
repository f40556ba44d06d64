-- +goose Up

-- When the e-mail address of an account was confirmed, Unix microseconds, as the newest credential of it that came here
-- says. Older credentials have ended.
create table buyer_since (
    customer_id uuid   primary key,
    since       bigint not null
);

-- +goose Down
drop table buyer_since;
