-- +goose Up

-- The copy of the orders feed, as far as assembly needs it.
create table orders (
    id      uuid   primary key,
    version bigint not null,
    cars    int    not null check (cars between 0 and 10000) -- -1 stands for numbers that no order can have
);

-- A build per ordered car, as the builds feed has it. Its times are those that the feed can tell.
create table build (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null check (status in ('planned', 'started', 'finished', 'cancelled')),
    order_id    uuid        not null,
    customer_id uuid        not null,
    car         int         not null,
    model       text        not null,
    options     text[]      not null,
    slot        date        not null,
    started_at  timestamptz,
    finished_at timestamptz,
    updated_at  timestamptz not null,
    due         timestamptz, -- when the next step is, by the factory's clock; null: there is none
    constraint slot_in_range     check (slot between '0001-01-01' and '9999-12-31'),
    constraint due_in_range      check (due between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00'),
    constraint started_in_range  check (started_at between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00'),
    constraint finished_in_range check (finished_at between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00'),
    constraint updated_in_range  check (updated_at between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00')
);
create index on build (order_id);
create index on build (due) where due is not null;
create index on build (updated_at, id);
create index on build (status, updated_at, id);
create index build_next on build (status, due, id) where due is not null;
select keep_row_count('build', 'status'); -- the page of the builds reads a few rows, however many there are

-- How many cars a day has: those planned for it, whatever became of them, but for the cancelled ones.
create table slot (
    day  date primary key constraint day_in_range check (day between '0001-01-01' and '9999-12-31'),
    cars int  not null check (cars >= 0)
);

-- The factory's clock: at real_at it showed factory_at, and since then it runs so many times as fast as real time. One row.
create table clock (
    one        boolean          primary key default true check (one),
    real_at    timestamptz      not null,
    factory_at timestamptz      not null,
    speed      double precision not null
);

select feed_create('builds', personal => false);
