-- +goose Up

-- The page of the builds reads a few rows, however many there are.
select keep_row_count('build', 'status');
create index build_next on build (status, due, id) where due is not null;

-- +goose Down
drop index build_next;
select drop_row_count('build');
