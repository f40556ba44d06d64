-- +goose Up

-- The purchases under way are counted by their part, for the list of the suppliers.
drop trigger row_count_insert on purchase;
drop trigger row_count_update on purchase;
drop trigger row_count_delete on purchase;
drop trigger row_count_truncate on purchase;
delete from row_count where relation = 'purchase';
select keep_row_count('purchase', $$case when arrived_at is null then part end$$);
