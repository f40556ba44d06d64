-- +goose Up
select keep_row_count('document', 'kind', 'total_cents');
select keep_row_count('orders', $$case when status = 'placed' and invoice is null then 'waiting' end$$);

-- The orders that wait, the oldest first.
create index orders_waiting on orders (placed_at, id) where status = 'placed' and invoice is null;

-- +goose Down
drop index orders_waiting;
select drop_row_count('orders');
select drop_row_count('document');
