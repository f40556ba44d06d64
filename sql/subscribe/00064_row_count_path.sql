-- +goose Up

-- The triggers find their tables whatever the search_path of the session is: pg_restore has an empty one.
alter function count_rows() set search_path from current;

-- +goose Down
alter function count_rows() reset search_path;
