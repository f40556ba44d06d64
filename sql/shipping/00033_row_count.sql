-- +goose Up
select keep_row_count('shipment', 'status');

-- +goose Down
select drop_row_count('shipment');
