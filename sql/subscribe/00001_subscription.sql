-- +goose Up

-- How far the copy of each feed is. The cursor moves in the transaction that applies what lies before it.
create table subscription (
    feed            text        primary key,
    cursor          text        not null default '0',
    etag            text        not null default '', -- of the last answer for etag_url
    etag_url        text        not null default '',
    head_position   bigint      not null default 0,  -- where the source's feed ended when it was last asked
    as_of           timestamptz,                     -- the copy is what the source had then
    last_success_at timestamptz                      -- when the source was last reached and nothing was left to copy
);

-- +goose Down
drop table subscription;
