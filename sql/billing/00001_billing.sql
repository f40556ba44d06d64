-- +goose Up

-- The last number given to a document. A transaction that changes the copies, or issues, locks this row first: then the numbers have no gap, and
-- an order and its customer that come at the same moment do not miss each other.
create table last_number (
    number bigint  not null,
    single boolean primary key default true check (single)
);
insert into last_number values (0);

-- Invoices and credit notes, each as it was issued: by the law it stays, and stays as it is, whatever becomes of the customer.
create table document (
    number      bigint      primary key, -- 1, 2, 3 ... over both kinds
    kind        text        not null check (kind in ('invoice', 'credit_note')),
    credits     bigint      unique references document, -- the invoice that a credit note takes back as a whole
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
    lines       jsonb       not null,
    currency    text        not null,
    total_cents bigint      not null, -- the VAT included
    vat_percent int         not null,
    vat_cents   bigint      not null,
    check ((kind = 'credit_note') = (credits is not null))
);
create index on document (order_id);
select keep_row_count('document', 'kind', 'total_cents');

-- +goose StatementBegin
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'document % was issued: it cannot be changed', old.number;
end
$$;
-- +goose StatementEnd
create trigger issued before update or delete on document for each row execute function refuse_change();

create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null check (status in ('placed', 'cancelled')),
    customer_id uuid        not null,
    lines       jsonb       not null check (jsonb_typeof(lines) = 'array'),
    total_cents bigint      not null,
    currency    text        not null,
    placed_at   timestamptz not null,
    invoice     bigint      unique references document -- the one that is not credited; null: none
);
create index on orders (customer_id) where status = 'placed' and invoice is null; -- those that wait
create index orders_waiting on orders (placed_at, id) where status = 'placed' and invoice is null; -- the oldest first
select keep_row_count('orders', $$case when status = 'placed' and invoice is null then 'waiting' end$$);

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

-- The copy of the shipments feed: an invoice is not credited while a car of its order is out.
create table shipment (
    id       uuid   primary key,
    version  bigint not null,
    order_id uuid   not null,
    status   text   not null
);
create index on shipment (order_id) where status = 'shipped';
