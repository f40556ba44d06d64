-- +goose Up

-- The pages that hold the last 10,000 entries of each copy, and the entities that their entries are of. If the source loses the end of
-- its feed, they tell from which cursor on, and of which entities, the copy has something that the source has not.
create table copied_page (
    service     text   not null,
    feed        text   not null,
    position    bigint not null, -- of cursor
    cursor      text   not null, -- after the page
    page_after  text   not null, -- the cursor before it
    ids         uuid[] not null, -- in the order of the entries; of one that does not say whose it is, 0
    primary key (service, feed, position, cursor),
    foreign key (service, feed) references subscription on update cascade on delete cascade
);
alter table copied_page alter ids set storage external; -- ids do not compress

-- The resync under way reads the feed from this cursor on only, since it is of what came after it that the source has lost the end. It
-- counts only if lost_since is the resync_since of now; else the resync reads the whole feed. A process of an earlier version would read
-- the whole feed, too: it cannot end a resync that began here.
alter table subscription add lost_after text, add lost_since timestamptz,
    add constraint lost_end_known check (lost_since is null or resync_since is not null);

-- The copy has the entity from the lost end, and the resync has not seen yet what the source has of it.
alter table resynced_entity add lost boolean not null default false;
