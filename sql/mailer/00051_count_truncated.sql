-- +goose Up

-- Also when all customers go at once, their pending mails count as waiting.
-- +goose StatementBegin
create function count_all_waiting() returns trigger language plpgsql as $$
begin
    insert into row_count as r (relation, value, rows, total)
    select 'mail', w.value, w.sign * count(*), w.sign * sum(m.uncertain)
      from customers c join mail m on m.customer_id = c.id and m.state = 'pending'
     cross join (values ('pending', -1), ('waiting', 1)) as w (value, sign)
     group by w.value, w.sign order by w.value
    on conflict (relation, value) do update set rows = r.rows + excluded.rows, total = r.total + excluded.total;
    return null;
end
$$;
-- +goose StatementEnd
create trigger waiting_truncate before truncate on customers for each statement execute function count_all_waiting();

-- +goose Down
drop trigger waiting_truncate on customers;
drop function count_all_waiting;
