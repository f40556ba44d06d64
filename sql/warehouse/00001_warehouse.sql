-- +goose Up
create table supplier (
    supplier  text primary key,
    name      text not null,
    lead_days int  not null check (lead_days > 0) -- from a purchase to its arrival
);

create table part (
    part          text    primary key,
    name          text    not null,
    on_hand       bigint  not null,           -- below 0: pieces were built in before their arrival was booked
    reserved      bigint  not null default 0, -- the sum of its reservations
    on_order      bigint  not null default 0, -- the sum of its purchases
    reorder_point bigint  not null,           -- new pieces are ordered when fewer than these are left unreserved
    lot           bigint  not null check (lot > 0),
    supplier      text    not null references supplier
);

-- What a car of a model takes, and what an option adds to it.
create table bill_of_materials (
    item     text   not null, -- a model or an option
    part     text   not null references part,
    quantity bigint not null check (quantity > 0),
    primary key (item, part)
);

-- The copy of the orders feed, as far as a warehouse needs it.
create table orders (
    id       uuid    primary key,
    version  bigint  not null,
    status   text    not null,
    lines    jsonb   not null,
    to_build boolean not null default false -- pieces are reserved for it
);
select keep_row_count('orders', $$case when to_build then 'to build' end$$);

-- The copy of the builds feed, as far as a warehouse needs it.
create table build (
    id       uuid   primary key,
    version  bigint not null,
    status   text   not null,
    order_id uuid   not null,
    model    text   not null,
    options  text[] not null
);
create index on build (order_id);

-- What an order takes. Pieces are reserved from the order until the build of their car starts, or the order is cancelled.
create table reservation (
    order_id uuid   not null,
    part     text   not null references part,
    quantity bigint not null, -- reserved
    built_in bigint not null, -- into cars whose builds have started: these pieces are no longer on hand
    primary key (order_id, part)
);

-- Purchases are numbered 1, 2, 3 ... for the whole warehouse, and arrive.
create table purchase (
    part       text        not null references part,
    number     bigint      primary key,
    quantity   bigint      not null,
    ordered_at timestamptz not null default now(),
    due_at     timestamptz not null,
    arrived_at timestamptz -- null: it is under way
);
create index on purchase (part, number);
create index on purchase (due_at, number) where arrived_at is null;
select keep_row_count('purchase', $$case when arrived_at is null then 'under way' end$$);

-- Every change of the stock, with what the stock was after it. The sum of a part's movements is the part.
create table movement (
    id             bigint      generated always as identity primary key,
    part           text        not null references part,
    moved_at       timestamptz not null default clock_timestamp(),
    order_id       uuid,                                 -- whose pieces were reserved, released or built in
    purchase       bigint      references purchase,      -- that was made or has arrived; neither: the stock was counted
    on_hand        bigint      not null default 0,       -- changes
    reserved       bigint      not null default 0,
    on_order       bigint      not null default 0,
    on_hand_after  bigint      not null,
    reserved_after bigint      not null,
    on_order_after bigint      not null
);
create index on movement (part, id);
create index on movement (order_id) where order_id is not null;

insert into supplier(supplier, name, lead_days) values
    ('zellhaus',      'Zellhaus Battery Works', 12),
    ('rotor-coil',    'Rotor & Coil',            8),
    ('panel-bros',    'Panel Brothers',         10),
    ('roundabout',    'Roundabout Wheels',       3),
    ('sitwell',       'Sitwell Seating',         5),
    ('polar',         'Polar Thermal',           6),
    ('clearpane',     'Clearpane',               7),
    ('hitch',         'Hitch & Daughters',       4),
    ('farsight',      'Farsight Sensors',        9);

insert into part (part, name, on_hand, reorder_point, lot, supplier) values
    ('battery-module', 'Battery module',        400, 120, 240, 'zellhaus'),
    ('motor',          'Drive motor',            80,  24,  40, 'rotor-coil'),
    ('inverter',       'Inverter',               80,  24,  40, 'rotor-coil'),
    ('body-small',     'Body shell, small',      30,  10,  20, 'panel-bros'),
    ('body-large',     'Body shell, large',      40,  12,  20, 'panel-bros'),
    ('body-van',       'Body shell, van',        20,   6,  10, 'panel-bros'),
    ('wheel',          'Wheel with tyre',       320,  80, 160, 'roundabout'),
    ('seat',           'Seat',                  260,  60, 120, 'sitwell'),
    ('heat-pump',      'Heat pump',              40,  12,  24, 'polar'),
    ('glass-roof',     'Glass roof',             30,   8,  16, 'clearpane'),
    ('tow-bar',        'Tow bar',                24,   6,  12, 'hitch'),
    ('sensor-set',     'Camera and radar set',   30,   8,  16, 'farsight');

insert into bill_of_materials (item, part, quantity) values
    ('volta',  'battery-module', 5), ('volta',  'motor', 1), ('volta',  'inverter', 1), ('volta',  'body-small', 1), ('volta',  'wheel', 4), ('volta',  'seat', 4),
    ('ampere', 'battery-module', 8), ('ampere', 'motor', 1), ('ampere', 'inverter', 1), ('ampere', 'body-large', 1), ('ampere', 'wheel', 4), ('ampere', 'seat', 5),
    ('ohm',    'battery-module', 8), ('ohm',    'motor', 1), ('ohm',    'inverter', 1), ('ohm',    'body-large', 1), ('ohm',    'wheel', 4), ('ohm',    'seat', 5),
    ('joule',  'battery-module', 6), ('joule',  'motor', 1), ('joule',  'inverter', 1), ('joule',  'body-van',   1), ('joule',  'wheel', 4), ('joule',  'seat', 2),
    ('long_range',        'battery-module', 2),
    ('heat_pump',         'heat-pump', 1),
    ('glass_roof',        'glass-roof', 1),
    ('tow_bar',           'tow-bar', 1),
    ('all_wheel_drive',   'motor', 1), ('all_wheel_drive', 'inverter', 1),
    ('driver_assistance', 'sensor-set', 1),
    ('third_row',         'seat', 2);

insert into movement (part, on_hand, reserved, on_order, on_hand_after, reserved_after, on_order_after)
select part, on_hand, reserved, on_order, on_hand, reserved, on_order from part order by part;
