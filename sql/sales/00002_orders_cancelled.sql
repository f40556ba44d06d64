-- +goose Up

-- For the few among the many. An index of what is in lines would cost every sale, and a model that sells is found on the
-- newest orders anyway.
create index orders_cancelled on orders (id) where status = 'cancelled';

-- +goose Down
drop index orders_cancelled;
