package subscribe

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Records go when they are old: polls, and what a resync has read of a feed that the subscriber does not have any more.
// Its progress, and what a resync of the whole feed under way has read, stay; one of the lost end becomes one of the
// whole feed.
func TestSweep(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 1)
	c := newCopier(t, s)
	c.mustPoll(t)
	exec(t, c.pool, `
		insert into subscription (service, feed, cursor, resync_cursor, resync_since) values
		       ($1, 'gone', '7-0123456789ab', '5-0123456789ab', now() - interval '90 days 1 second'),
		       ($1, 'just gone', '7-0123456789ab', '5-0123456789ab', now() - interval '89 days'),
		       ($1, 'rejecting', '7-0123456789ab', null, null),
		       ($1, 'rejecting, lost end', '7-0123456789ab', '5-0123456789ab', now()),
		       ('other', 'gone', '7-0123456789ab', '5-0123456789ab', now() - interval '91 days')`, c.service)
	exec(t, c.pool, `update subscription set lost_after = '4-0123456789ab', lost_since = resync_since where feed = 'rejecting, lost end'`)
	exec(t, c.pool, `update subscription set resync_cursor = '5-0123456789ab', resync_since = now() - interval '91 days' where feed = 'things'`)
	exec(t, c.pool, `
		insert into resynced_entity (service, feed, id, version, position, updated)
		select service, feed, gen_random_uuid(), 1, n, now() from subscription, generate_series(1, $1) n where resync_cursor is not null`, sweptAtOnce+1)
	exec(t, c.pool, `
		insert into poll (service, feed, started_at, seconds, outcome, requests, entries, bytes)
		select $1, 'things', now() - age::interval, 1, 'entries', 1, 1, 1 from unnest('{90 days 1 second,89 days,-1 day}'::text[]) as age`, c.service)
	exec(t, c.pool, `
		insert into rejected_entry (service, feed, entity_id, version, position, updated, reason, rejected_at)
		select $1, feed, gen_random_uuid(), 1, 1, now(), '', now() - interval '91 days' from unnest('{gone,just gone,rejecting,"rejecting, lost end",things}'::text[]) as feed`, c.service)

	if err := (&sweeper{&Subscriber{options: Options{Name: c.service, RecordAge: 90 * day}, pool: c.pool, pollers: []*poller{c.poller}}}).sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := c.pool.Query(t.Context(), `
		select concat_ws(' ', service = $1, feed, cursor, resync_cursor, (select count(*) from resynced_entity e where (e.service, e.feed) = (s.service, s.feed)))
		  from subscription s where feed <> 'things' order by 1`, c.service)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if n := count(t, c.pool, `select count(*) from rejected_entry where feed <> 'things'`); n != 0 {
		t.Errorf("%d rejected entries of a feed that is gone are left", n)
	}
	if n := count(t, c.pool, `select count(*) from rejected_entry`); n != 1 {
		t.Errorf("%d rejected entries of the feed that is there are left", n)
	}
	if n := count(t, c.pool, `select count(*) from subscription where feed like 'rejecting%' and service = $1 and resync_reason like '%not kept%' and lost_after is null`, c.service); n != 2 {
		t.Errorf("%d resyncs of the whole feed are to begin, want 2", n)
	}
	want := []string{"f gone 7-0123456789ab 5-0123456789ab 1001", "t gone 7-0123456789ab 0 0", "t just gone 7-0123456789ab 5-0123456789ab 1001",
		"t rejecting 7-0123456789ab 0 0", "t rejecting, lost end 7-0123456789ab 0 0"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("left are %q, %v, want %q", got, err, want)
	}
	if n := count(t, c.pool, `select count(*) from resynced_entity where feed = 'things'`); n != sweptAtOnce+1 {
		t.Errorf("%d rows of a resync under way are left", n)
	}
	if n := count(t, c.pool, `select count(*) from poll where started_at < now() - interval '80 days' or started_at > now()`); n != 2 {
		t.Errorf("%d polls of other days are left, want those of 89 days ago and of tomorrow", n)
	}
}
