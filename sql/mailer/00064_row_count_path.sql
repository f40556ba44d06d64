-- +goose Up

-- As of count_rows.
alter function count_waiting() set search_path from current;
alter function count_all_waiting() set search_path from current;

-- +goose Down
alter function count_waiting() reset search_path;
alter function count_all_waiting() reset search_path;
