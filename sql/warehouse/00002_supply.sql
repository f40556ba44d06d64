-- +goose Up
create table supplier (
    supplier  text primary key,
    name      text not null,
    lead_days int  not null check (lead_days > 0) -- from a purchase to its arrival
);

insert into supplier (supplier, name, lead_days) values
    ('zellhaus',      'Zellhaus Battery Works', 12),
    ('rotor-coil',    'Rotor & Coil',            8),
    ('panel-bros',    'Panel Brothers',         10),
    ('roundabout',    'Roundabout Wheels',       3),
    ('sitwell',       'Sitwell Seating',         5),
    ('polar',         'Polar Thermal',           6),
    ('clearpane',     'Clearpane',               7),
    ('hitch',         'Hitch & Daughters',       4),
    ('farsight',      'Farsight Sensors',        9);

alter table part add column supplier text references supplier;

update part set supplier = s.supplier
  from (values ('battery-module', 'zellhaus'), ('motor', 'rotor-coil'), ('inverter', 'rotor-coil'), ('body-small', 'panel-bros'),
               ('body-large', 'panel-bros'), ('body-van', 'panel-bros'), ('wheel', 'roundabout'), ('seat', 'sitwell'), ('heat-pump', 'polar'),
               ('glass-roof', 'clearpane'), ('tow-bar', 'hitch'), ('sensor-set', 'farsight')) as s (part, supplier)
 where part.part = s.part;

alter table part alter column supplier set not null;

-- Purchases are numbered 1, 2, 3 ... for the whole warehouse, and arrive.
alter table purchase drop constraint purchase_pkey;
update purchase set number = n.number
  from (select part, number as old, row_number() over (order by ordered_at, part, number) as number from purchase) as n
 where purchase.part = n.part and purchase.number = n.old;
alter table purchase
    add primary key (number),
    add column due_at     timestamptz,
    add column arrived_at timestamptz; -- null: it is under way
update purchase set due_at = ordered_at; -- nobody has said when these would come: they are due
alter table purchase alter column due_at set not null;
create index on purchase (part, number);
create index on purchase (due_at, number) where arrived_at is null;

-- Every change of the stock, with what the stock was after it. The sum of a part's movements is the part.
create table movement (
    id             bigint      generated always as identity primary key,
    part           text        not null references part,
    moved_at       timestamptz not null default clock_timestamp(),
    order_id       uuid,                                 -- whose pieces were reserved or released
    purchase       bigint      references purchase,      -- that was made or has arrived; neither: the stock was counted
    on_hand        bigint      not null default 0,       -- changes
    reserved       bigint      not null default 0,
    on_order       bigint      not null default 0,
    on_hand_after  bigint      not null,
    reserved_after bigint      not null,
    on_order_after bigint      not null
);
create index on movement (part, id);

insert into movement (part, on_hand, reserved, on_order, on_hand_after, reserved_after, on_order_after)
select part, on_hand, reserved, on_order, on_hand, reserved, on_order from part order by part;

-- +goose Down
drop table movement;
update part set on_hand = on_hand - arrived.quantity, on_order = on_order + arrived.quantity
  from (select part, sum(quantity) as quantity from purchase where arrived_at is not null group by part) as arrived
 where part.part = arrived.part;
drop index purchase_part_number_idx;
alter table purchase
    drop constraint purchase_pkey,
    drop column due_at,
    drop column arrived_at,
    add primary key (part, number);
alter table part drop column supplier;
drop table supplier;
