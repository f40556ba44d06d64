-- +goose Up

-- The lines of an order go into its row, as they come: an order is one row to write, and one to read.
alter table orders add lines jsonb;
update orders set lines = coalesce((
    select jsonb_agg(jsonb_build_object('model', model, 'options', options, 'quantity', quantity, 'unit_price_cents', unit_price_cents) order by line)
      from order_line where order_id = id), '[]');
alter table orders alter lines set not null;
drop table order_line;
