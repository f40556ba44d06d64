-- +goose Up

-- The copy of the orders feed, as far as the statistics need it.
create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null,
    placed_at   timestamptz not null,
    total_cents bigint      not null
);

create table order_line (
    order_id         uuid   not null references orders on delete cascade,
    line             int    not null, -- 1, 2, 3 ... of the order
    model            text   not null,
    quantity         bigint not null,
    unit_price_cents bigint not null,
    primary key (order_id, line)
);

-- +goose Down
drop table order_line, orders;
