-- +goose Up

-- Keys are removed when they are old, the oldest first.
create index idempotency_key_created_at on idempotency_key (created_at);

-- +goose Down
drop index idempotency_key_created_at;
