-- +goose Up

-- +goose StatementBegin
-- feed_create makes an empty feed, or leaves the feed of this name as it is.
create or replace function feed_create(feed_name text) returns void
language sql as $$
    insert into feed (name, position, digest) values (feed_name, 0, sha256(convert_to(feed_name, 'UTF8'))) on conflict (name) do nothing;
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- The functions find the tables of their own schema, whatever the search_path of the session that calls them.
do $$
declare
    name text;
begin
    foreach name in array array['feed_create(text)', 'feed_check(text, feed_entry[])', 'feed_append(text, bigint, bytea, feed_entry[], uuid[])'] loop
        execute format('alter function %s set search_path = %I', name, current_schema());
    end loop;
end
$$;
-- +goose StatementEnd

-- +goose Down
alter function feed_append(text, bigint, bytea, feed_entry[], uuid[]) reset search_path;
alter function feed_check(text, feed_entry[]) reset search_path;

-- +goose StatementBegin
create or replace function feed_create(feed_name text) returns void
language sql as $$
    insert into feed (name, position, digest) values (feed_name, 0, sha256(convert_to(feed_name, 'UTF8')));
$$;
-- +goose StatementEnd
