-- +goose Up

alter table subscription
    add column failing_since timestamptz,                    -- the first poll since the last success failed then; null: none did
    add column stale         boolean not null default false; -- the copy was seen to be stale, and no poll has succeeded since
alter table subscription_setting
    add column tuned_at    timestamptz, -- when the schedule was last changed at run time; null: never
    add column stale_tuned timestamptz; -- the copy whose last success was then (-infinity: never) was stale when it was changed

-- +goose Down
alter table subscription drop column failing_since, drop column stale;
alter table subscription_setting drop column tuned_at, drop column stale_tuned;
