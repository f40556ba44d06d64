-- +goose Up

-- The last number given to a document. A transaction that changes the copies, or issues, locks this row first: then the numbers have no gap, and
-- an order and its customer that come at the same moment do not miss each other.
create table last_number (
    number bigint  not null,
    single boolean primary key default true check (single)
);
insert into last_number values (0);

-- Cars are counted by ranges of their numbers 1, 2, 3 ... over the lines of their order. lines_of returns the lines of an order as far as they
-- are of these cars.
create function lines_of(lines jsonb, cars int4multirange) returns jsonb language sql immutable as $$
    select coalesce(jsonb_agg(jsonb_set(line, '{quantity}', to_jsonb(n)) order by i), '[]')
      from (
        select line, i, (select coalesce(sum(upper(r) - lower(r)), 0) from unnest(cars * int4multirange(int4range(last - quantity + 1, last + 1))) as r) as n
          from (
            select line, i, quantity, (sum(quantity) over (order by i))::int as last
              from jsonb_array_elements(lines) with ordinality as l (line, i) cross join lateral (select (line ->> 'quantity')::int) as q (quantity)
          ) as counted
      ) as found where n > 0
$$;

create function cars_of(lines jsonb) returns int4multirange language sql immutable as $$
    select int4multirange(int4range(1, 1 + coalesce(sum((line ->> 'quantity')::int), 0)::int)) from jsonb_array_elements(lines) as line
$$;

create function cents_of(lines jsonb, cars int4multirange) returns bigint language sql immutable as $$
    select coalesce(sum((line ->> 'quantity')::bigint * (line ->> 'unit_price_cents')::bigint), 0)::bigint from jsonb_array_elements(lines_of(lines, cars)) as line
$$;

-- Invoices and credit notes, each as it was issued: by the law it stays, and stays as it is, whatever becomes of the customer.
create table document (
    number      bigint      primary key, -- 1, 2, 3 ... over both kinds
    kind        text        not null check (kind in ('invoice', 'credit_note')),
    credits     bigint      references document, -- the invoice of which a credit note takes back some cars
    reason      text        not null default '',        -- of a credit note
    issued_at   timestamptz not null,
    order_id    uuid        not null,
    placed_at   timestamptz not null,
    customer_id uuid        not null,
    name        text        not null,
    street      text        not null,
    postal_code text        not null,
    city        text        not null,
    country     text        not null,
    lines       jsonb       not null, -- of the order
    cars        int4multirange not null check (not isempty(cars)), -- those of the order that it is about
    currency    text        not null,
    total_cents bigint      not null, -- of these cars, the VAT included
    vat_percent int         not null,
    vat_cents   bigint      not null,
    check ((kind = 'credit_note') = (credits is not null))
);
create index on document (order_id);
create index on document (kind, number);
create index on document (credits) where credits is not null;
select keep_row_count('document', 'kind', 'total_cents');

-- +goose StatementBegin
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'document % was issued: it cannot be changed', old.number;
end
$$;
-- +goose StatementEnd
create trigger issued before update or delete on document for each row execute function refuse_change();

-- The invoices that are not credited in full, with the cars that are not.
create table standing (
    invoice  bigint         primary key references document,
    order_id uuid           not null,
    cars     int4multirange not null check (not isempty(cars))
);
create index on standing (order_id);

create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null check (status in ('placed', 'cancelled')),
    customer_id uuid        not null,
    lines       jsonb       not null check (jsonb_typeof(lines) = 'array'),
    total_cents bigint      not null,
    currency    text        not null,
    placed_at   timestamptz not null,
    missing     int4multirange not null default '{}' -- the cars that are to be invoiced as soon as the customer is known
);
create index on orders (customer_id) where not isempty(missing);
create index orders_waiting on orders (placed_at, id) where not isempty(missing); -- the oldest first
select keep_row_count('orders', $$case when not isempty(missing) then 'waiting' end$$);

create table customer (
    id          uuid   primary key,
    version     bigint not null,
    name        text   not null,
    street      text   not null,
    postal_code text   not null,
    city        text   not null,
    country     text   not null
);

-- Customers whose account was deleted: an order that waits for one of them waits for good.
create table deleted_customer (id uuid primary key);

-- The copy of the shipments feed: a car is credited once it is stopped or returned.
create table shipment (
    id       uuid   primary key,
    version  bigint not null,
    order_id uuid   not null,
    car      int    not null,
    status   text   not null
);
create index on shipment (order_id);
