-- +goose Up

-- A pending mail whose customer has not come counts as one that waits.
select keep_row_count('mail', $$case when state = 'pending' and not exists (select from customers c where c.id = customer_id) then 'waiting' else state end$$, 'uncertain');

-- When customers come or go, their pending mails count as the other.
-- +goose StatementBegin
create function count_waiting() returns trigger language plpgsql as $$
begin
    insert into row_count as r (relation, value, rows, total)
    select 'mail', w.value, w.sign * count(*), w.sign * sum(m.uncertain)
      from changed c join mail m on m.customer_id = c.id and m.state = 'pending'
     cross join (values ('pending', case tg_op when 'INSERT' then 1 else -1 end), ('waiting', case tg_op when 'INSERT' then -1 else 1 end)) as w (value, sign)
     group by w.value, w.sign order by w.value
    on conflict (relation, value) do update set rows = r.rows + excluded.rows, total = r.total + excluded.total;
    return null;
end
$$;
-- +goose StatementEnd
create trigger waiting_insert after insert on customers referencing new table as changed for each statement execute function count_waiting();
create trigger waiting_delete after delete on customers referencing old table as changed for each statement execute function count_waiting();

-- +goose Down
drop trigger waiting_insert on customers;
drop trigger waiting_delete on customers;
drop function count_waiting;
select drop_row_count('mail');
