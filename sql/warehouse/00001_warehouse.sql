-- +goose Up
create table part (
    part          text    primary key,
    name          text    not null,
    on_hand       bigint  not null,
    reserved      bigint  not null default 0, -- the sum of its reservations
    on_order      bigint  not null default 0, -- the sum of its purchases
    reorder_point bigint  not null,           -- new pieces are ordered when fewer than these are left unreserved
    lot           bigint  not null check (lot > 0)
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
    id      uuid   primary key,
    version bigint not null,
    status  text   not null
);

create table reservation (
    order_id uuid   not null,
    part     text   not null references part,
    quantity bigint not null,
    primary key (order_id, part)
);

create table purchase (
    part       text        not null references part,
    number     bigint      not null, -- 1, 2, 3 ... of this part
    quantity   bigint      not null,
    ordered_at timestamptz not null default now(),
    primary key (part, number)
);

insert into part (part, name, on_hand, reorder_point, lot) values
    ('battery-module', 'Battery module',        400, 120, 240),
    ('motor',          'Drive motor',            80,  24,  40),
    ('inverter',       'Inverter',               80,  24,  40),
    ('body-small',     'Body shell, small',      30,  10,  20),
    ('body-large',     'Body shell, large',      40,  12,  20),
    ('body-van',       'Body shell, van',        20,   6,  10),
    ('wheel',          'Wheel with tyre',       320,  80, 160),
    ('seat',           'Seat',                  260,  60, 120),
    ('heat-pump',      'Heat pump',              40,  12,  24),
    ('glass-roof',     'Glass roof',             30,   8,  16),
    ('tow-bar',        'Tow bar',                24,   6,  12),
    ('sensor-set',     'Camera and radar set',   30,   8,  16);

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

-- +goose Down
drop table purchase, reservation, orders, bill_of_materials, part;
