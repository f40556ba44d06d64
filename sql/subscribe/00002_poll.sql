-- +goose Up

-- The last polls of each feed, the newest with the highest id. They hold nothing of the entries, and are written seconds after the poll.
create table poll (
    id         bigint           primary key generated always as identity, -- a clock that is set back does not change their order
    service    text             not null,
    feed       text             not null,
    started_at timestamptz      not null,
    seconds    double precision not null, -- with the time for which the request waited at the source
    outcome    text             not null,
    requests   int              not null,
    entries    int              not null, -- that the source sent
    bytes      bigint           not null, -- of its answers, compressed
    error      text,                      -- in words; null: it succeeded
    foreign key (service, feed) references subscription on update cascade on delete cascade
);
create index on poll (service, feed, id);
