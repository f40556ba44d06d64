-- +goose Up

-- Times that the pages and the feed can tell. The clock may show any: where it cannot go on it begins again.
update build set due = case when due < '0001-01-01' then timestamptz '0001-01-01' else timestamptz '9999-12-31' end
 where due not between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00';
alter table build
    add constraint slot_in_range     check (slot between '0001-01-01' and '9999-12-31') not valid,
    add constraint due_in_range      check (due between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00') not valid,
    add constraint started_in_range  check (started_at between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00') not valid,
    add constraint finished_in_range check (finished_at between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00') not valid,
    add constraint updated_in_range  check (updated_at between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00') not valid;
alter table slot add constraint day_in_range check (day between '0001-01-01' and '9999-12-31') not valid;

-- +goose Down
alter table slot drop constraint day_in_range;
alter table build
    drop constraint slot_in_range, drop constraint due_in_range, drop constraint started_in_range, drop constraint finished_in_range,
    drop constraint updated_in_range;
