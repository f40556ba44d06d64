-- +goose Up

-- Where the source's feed ended when the service first saw it; null: it has not, or does not ask. 0 once the source has another
-- history, if all of the past was copied by then.
alter table subscription add column past bigint;

-- +goose Down
alter table subscription drop column past;
