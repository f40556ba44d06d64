-- +goose Up

-- The place at or before which all lies that superseded the entries which the copy, or the resync under way, has skipped, while it is to
-- be seen whether the source still has that place. Null: nothing is.
alter table subscription add compacted text;

-- The entity was superseded when the resync saw it, and nothing newer came since: the copy of it stays.
alter table resynced_entity add superseded boolean not null default false;

-- Entities of which a feed with a past has skipped superseded entries and applied nothing since, with the position of their first version.
create table skipped_entity (
    service        text   not null,
    feed           text   not null,
    id             uuid   not null,
    first_position bigint not null,
    primary key (service, feed, id),
    foreign key (service, feed) references subscription on update cascade on delete cascade
);
