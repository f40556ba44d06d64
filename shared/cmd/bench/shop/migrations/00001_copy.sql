-- +goose Up
create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    customer_id uuid        not null,
    total_cents bigint      not null check (total_cents > 0),
    placed_at   timestamptz not null
);

-- What the consumer is there for, be it a reservation, an invoice or a mail in an outbox: done once for each row that is inserted.
create table effect (order_id uuid not null);

-- +goose StatementBegin
create function copied() returns trigger language plpgsql as $$
begin
    insert into effect values (new.id);
    perform pg_notify('copied', new.id::text); -- arrives with the commit
    return null;
end $$;
-- +goose StatementEnd
create trigger copied after insert on orders for each row execute function copied();

-- +goose Down
drop table effect, orders;
drop function copied;
