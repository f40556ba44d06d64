-- +goose Up
select keep_row_count('orders', 'status');
select keep_row_count('purchase', $$case when arrived_at is null then 'under way' end$$);

-- +goose Down
select drop_row_count('purchase');
select drop_row_count('orders');
