-- +goose Up

-- How many rows a table has of each kind, and a sum over them, kept by triggers: a page that shows it reads a few rows, however
-- large the table is. Writers of a table wait for one another here.
create table row_count (
    relation text   not null, -- the table
    value    text   not null, -- what its rows are counted by
    rows     bigint not null,
    total    bigint not null,
    primary key (relation, value)
) with (fillfactor = 50);

-- count_rows takes two expressions over the columns of the table: what to count by, null for rows that do not count, and what to
-- sum up.
-- +goose StatementBegin
create function count_rows() returns trigger language plpgsql as $$
declare
    changed text := concat_ws(' union all ',
        case when tg_op <> 'DELETE' then format('select %s as value, 1 as rows, (%s)::bigint as total from new_rows', tg_argv[0], tg_argv[1]) end,
        case when tg_op <> 'INSERT' then format('select %s as value, -1 as rows, -(%s)::bigint as total from old_rows', tg_argv[0], tg_argv[1]) end);
begin
    if tg_op = 'TRUNCATE' then
        delete from row_count where relation = tg_table_name;
        return null;
    end if;
    execute format('
        insert into row_count as r (relation, value, rows, total)
        select %L, value, sum(rows), sum(total) from (%s) as changed where value is not null
         group by value having sum(rows) <> 0 or sum(total) <> 0 order by value
        on conflict (relation, value) do update set rows = r.rows + excluded.rows, total = r.total + excluded.total', tg_table_name, changed);
    return null;
end
$$;
-- +goose StatementEnd

-- keep_row_count counts the rows of a table from now on.
-- +goose StatementBegin
create function keep_row_count(relation text, value text, total text default '0') returns void language plpgsql as $$
begin
    execute format('create trigger row_count_insert after insert on %I referencing new table as new_rows
        for each statement execute function count_rows(%L, %L)', relation, value, total);
    execute format('create trigger row_count_update after update on %I referencing old table as old_rows new table as new_rows
        for each statement execute function count_rows(%L, %L)', relation, value, total);
    execute format('create trigger row_count_delete after delete on %I referencing old table as old_rows
        for each statement execute function count_rows(%L, %L)', relation, value, total);
    execute format('create trigger row_count_truncate after truncate on %I for each statement execute function count_rows()', relation);
    execute format('insert into row_count
        select %L, value, count(*), sum(total) from (select %s as value, %s as total from %I) as counted where value is not null group by value',
        relation, value, total, relation);
end
$$;
-- +goose StatementEnd

-- drop_row_count undoes keep_row_count.
-- +goose StatementBegin
create function drop_row_count(relation text) returns void language plpgsql as $$
begin
    execute format('drop trigger row_count_insert on %1$I; drop trigger row_count_update on %1$I; drop trigger row_count_delete on %1$I;
        drop trigger row_count_truncate on %1$I; delete from row_count where relation = %1$L', relation);
end
$$;
-- +goose StatementEnd

-- +goose Down
drop function keep_row_count, drop_row_count, count_rows;
drop table row_count;
