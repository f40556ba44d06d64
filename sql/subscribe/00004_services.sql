-- +goose Up

-- Services that share a database have rows of their own. Rows from before get '?' and the name of the service's migrations,
-- if those are the only ones here: the service takes them when it starts. If there are several, their services have moved
-- one cursor: the first service to start takes the rows, as '?', and resyncs.
create temp table service_migrations on commit drop as
select substr(tablename, 7) as name from pg_tables
 where schemaname = current_schema() and tablename like 'goose\_%'
   and tablename not in ('goose_subscribe', 'goose_publish');

alter table subscription
    add column service    text not null default '?',
    add column table_name text; -- which holds the copy; empty: none does; null: not known until the service starts
create unique index on subscription (table_name) where table_name <> '';
update subscription set service = '?' || name
  from service_migrations where (select count(*) from service_migrations) = 1;
update subscription
   set walk_cursor = '0', walk_history = '0', walk_since = now(),
       walk_reason = 'An upgrade: several services had moved one cursor.'
 where (select count(*) from service_migrations) > 1 and cursor <> '0' and walk_cursor is null;

alter table walked_entity
    add column service text not null default '?',
    drop constraint walked_entity_feed_fkey,
    drop constraint walked_entity_pkey;
alter table rejected_entry
    add column service text not null default '?',
    drop constraint rejected_entry_feed_fkey,
    drop constraint rejected_entry_pkey;
update walked_entity w set service = s.service from subscription s where s.feed = w.feed;
update rejected_entry r set service = s.service from subscription s where s.feed = r.feed;

alter table subscription
    alter column service drop default,
    drop constraint subscription_pkey,
    add primary key (service, feed);
drop index walked_entity_feed_position_idx;
create index on walked_entity (service, feed, position);
alter table walked_entity
    alter column service drop default,
    add primary key (service, feed, id),
    add foreign key (service, feed) references subscription on update cascade on delete cascade;
alter table rejected_entry
    alter column service drop default,
    add primary key (service, feed, entity_id),
    add foreign key (service, feed) references subscription on update cascade on delete cascade;

-- What was set at run time has rows of its own: a change does not wait for a long transaction that moves the cursor.
create table subscription_setting (
    service      text    not null,
    feed         text    not null,
    schedule     text,           -- null, as in the next two: the environment or the default rules
    wait_seconds int     check (wait_seconds between 0 and 30),
    page_size    int     check (page_size between 1 and 1000),
    paused       boolean not null default false,
    primary key (service, feed),
    foreign key (service, feed) references subscription on update cascade on delete cascade
);
insert into subscription_setting
select service, feed, schedule, wait_seconds, page_size, paused from subscription;
alter table subscription drop column schedule, drop column wait_seconds, drop column page_size, drop column paused;

-- +goose Down

-- It fails where several services copy a feed of the same name.
alter table subscription
    add column schedule     text,
    add column wait_seconds int check (wait_seconds between 0 and 30),
    add column page_size    int check (page_size between 1 and 1000),
    add column paused       boolean not null default false;
update subscription s
   set schedule = t.schedule, wait_seconds = t.wait_seconds, page_size = t.page_size, paused = t.paused
  from subscription_setting t where (t.service, t.feed) = (s.service, s.feed);
drop table subscription_setting;
alter table walked_entity drop column service;
alter table rejected_entry drop column service;
alter table subscription drop column service, drop column table_name, add primary key (feed);
alter table walked_entity add primary key (feed, id), add foreign key (feed) references subscription;
alter table rejected_entry add primary key (feed, entity_id), add foreign key (feed) references subscription;
create index on walked_entity (feed, position);
