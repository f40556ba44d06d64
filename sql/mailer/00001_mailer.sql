-- +goose Up

-- The copy of the orders feed, as far as a confirmation needs it.
create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null,
    customer_id uuid        not null,
    lines       jsonb       not null,
    total_cents bigint      not null,
    currency    text        not null,
    placed_at   timestamptz not null
);

-- The copy of the customers feed.
create table customers (
    id              uuid    primary key,
    version         bigint  not null,
    name            text    not null,
    email           text    not null,
    email_confirmed boolean not null default false
);

-- Customers whose account is deleted: nothing is sent to them.
create table deleted_customer (id uuid primary key);

-- The outbox: one confirmation per order that ever was.
create table mail (
    order_id       uuid        primary key,
    customer_id    uuid        not null,
    placed_at      timestamptz not null,
    -- pending   to be sent, once the customer has arrived and due_at is over
    -- sending   the end of the mail is on its way: whether it has arrived is known when the server replies
    -- sent      the server has taken it
    -- failed    the server has refused it for good
    -- skipped   the order was there before this service
    -- cancelled, withdrawn   never sent: the order was cancelled; the order or the customer is gone
    state          text        not null check (state in ('pending', 'sending', 'sent', 'failed', 'skipped', 'cancelled', 'withdrawn')),
    attempts       int         not null default 0,
    uncertain      int         not null default 0, -- of them ended without a reply
    due_at         timestamptz not null default now(),
    composed_at    timestamptz,                    -- its Date: when it was tried first
    sending_since  timestamptz,
    sent_at        timestamptz,
    reason         text        not null default '', -- why the last attempt failed
    -- To whom it was last tried, and what it said; null: not tried yet, forgotten with the customer's account, or
    -- long ago.
    recipient      text,
    recipient_name text,
    body           text
);
create index on mail (customer_id);
create index on mail (placed_at, order_id);
create index on mail (state, placed_at, order_id);
create index on mail (due_at) where state = 'pending';
create index on mail (coalesce(composed_at, due_at)) where recipient is not null;
create index on mail (sending_since) where state = 'sending';

-- Mails whose address has reached the limit, for their count. The reason is the Go constant overLimit.
create index mail_over_limit on mail (order_id) where state = 'pending' and reason = 'Its address has reached MAIL_LIMIT for this hour.';

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

-- A pending mail whose customer has not come counts as one that waits.
select keep_row_count('mail', $$case when state = 'pending' and not exists (select from customers c where c.id = customer_id) then 'waiting' else state end$$, 'uncertain');

-- When customers come or go, their pending mails count as the other.
-- +goose StatementBegin
create function count_waiting() returns trigger language plpgsql as $$
begin
    execute format('
        insert into %1$I.row_count as r (relation, value, rows, total)
        select ''mail'', w.value, w.sign * count(*), w.sign * sum(m.uncertain)
          from changed c join %1$I.mail m on m.customer_id = c.id and m.state = ''pending''
         cross join (values (''pending'', %2$s), (''waiting'', -(%2$s))) as w (value, sign)
         group by w.value, w.sign order by w.value
        on conflict (relation, value) do update set rows = r.rows + excluded.rows, total = r.total + excluded.total',
        tg_table_schema, case tg_op when 'INSERT' then 1 else -1 end);
    return null;
end
$$;
-- +goose StatementEnd
create trigger waiting_insert after insert on customers referencing new table as changed for each statement execute function count_waiting();
create trigger waiting_delete after delete on customers referencing old table as changed for each statement execute function count_waiting();

-- Also when all customers go at once, their pending mails count as waiting.
-- +goose StatementBegin
create function count_all_waiting() returns trigger language plpgsql as $$
begin
    execute format('
        insert into %1$I.row_count as r (relation, value, rows, total)
        select ''mail'', w.value, w.sign * count(*), w.sign * sum(m.uncertain)
          from %1$I.customers c join %1$I.mail m on m.customer_id = c.id and m.state = ''pending''
         cross join (values (''pending'', -1), (''waiting'', 1)) as w (value, sign)
         group by w.value, w.sign order by w.value
        on conflict (relation, value) do update set rows = r.rows + excluded.rows, total = r.total + excluded.total', tg_table_schema);
    return null;
end
$$;
-- +goose StatementEnd
create trigger waiting_truncate before truncate on customers for each statement execute function count_all_waiting();
