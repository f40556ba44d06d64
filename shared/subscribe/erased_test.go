package subscribe

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/sql"
)

// erase erases the thing.
func (s *source) erase(t rapid.TB, n int) {
	t.Helper()
	e := s.version(n)
	err := s.log.InTx(context.Background(), func(tx *publish.Tx) error {
		tx.Erase("things", e.ID, e.Version, e.Updated)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.history = append(s.history, e)
}

// restoredTo makes the source what it was when the dump was made: one that does not erase again.
func (s *source) restoredTo(t *testing.T, dump string, entries int) {
	t.Helper()
	s.log.Close()
	s.log = nil
	pgtest.RestoreFile(t, s.pool, dump)
	s.pool.Reset() // of what its connections know of the tables that were
	s.open(t)
	s.history = s.history[:entries]
	clear(s.versions)
	for _, e := range s.history {
		s.versions[e.ID] = e.Version
	}
}

// wantErased fails the test unless the copy has all things of the source but the first one, and nothing of that.
func wantErased(t *testing.T, c *copier, s *source) {
	t.Helper()
	things := c.things(t)
	if _, has := things[numbered(1)]; has || len(things) != len(s.things(t, int64(len(s.history)))) && len(things) != len(s.things(t, int64(len(s.history))))-1 {
		t.Errorf("the copy has %v", things)
	}
	if left := left(t, c.pool); left != 0 {
		t.Errorf("%d rows of the engine have something of it", left)
	}
}

// left counts the rows of the engine that say something of the first thing.
func left(t *testing.T, pool *pgxpool.Pool) (rows int) {
	t.Helper()
	err := pool.QueryRow(t.Context(), `
		select (select count(*) from rejected_entry where entity_id = $1 and entity is not null)
		     + (select count(*) from resynced_entity where id = $1 and entity is not null)`, numbered(1)).Scan(&rows)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// Whatever a source says later of what it once has erased, no copy takes it.
func TestErasedStaysErased(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, columns := range map[string][]string{"a copy with Apply": nil, "a pure copy": {"name"}} {
		t.Run(name+" of a source that is restored and does not erase again", func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), 10, columns...)
			t.Cleanup(c.fetcher.client.Close)
			s.put(t, 1, 30)
			c.mustPoll(t)
			dump := pgtest.DumpFile(t, s.pool)
			s.erase(t, 1)
			s.put(t, 2, 2)
			c.mustPoll(t)
			c.wantUpToDate(t, s)

			s.restoredTo(t, dump, 30)
			if s.things(t, 30)[numbered(1)].Name == "" {
				t.Fatal("the source has not got it back")
			}
			c.mustPoll(t) // which reads the feed again from its start
			wantErased(t, c, s)
			if at := c.stored(t); at.generation != 2 || at.resync.underWay || at.rejected > 0 || at.cursor != s.head(t).Cursor() {
				t.Errorf("it is at %+v", at)
			}
			s.put(t, 1, 3)
			c.mustPoll(t)
			wantErased(t, c, s)
			if err := c.resyncer.begin(t.Context(), "test", nil); err != nil {
				t.Fatal(err)
			}
			c = s.copier(t, c.pool, 10, columns...) // a restart in the middle
			t.Cleanup(c.fetcher.client.Close)
			c.mustPoll(t)
			s.put(t, 1, 40)
			c.mustPoll(t)
			wantErased(t, c, s)
			if things := c.things(t); len(things) != 39 {
				t.Errorf("of the others there are %d", len(things))
			}
		})
	}
	t.Run("entries of a page without a table", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		var mu sync.Mutex
		var passed []feed.Entry
		c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe")), 10)
		t.Cleanup(c.fetcher.client.Close)
		c.Apply, c.Table = nil, ""
		exec(t, c.pool, `update subscription set table_name = ''`)
		c.Entries = func(_ context.Context, _ *pgxpool.Pool, _ feed.Cursor, page *feed.Page) error {
			mu.Lock()
			defer mu.Unlock()
			passed = append(passed, page.Entries...)
			return nil
		}
		s.put(t, 1, 3)
		dump := pgtest.DumpFile(t, s.pool)
		s.erase(t, 1)
		c.mustPoll(t)
		s.restoredTo(t, dump, 3)
		s.put(t, 1, 1)
		c.mustPoll(t)
		if n := len(passed); n != 8 {
			t.Fatalf("%d entries", n)
		}
		for i, e := range passed {
			if erased := e.ID == numbered(1); e.Erased != erased || e.Deleted != erased || (e.Entity == nil) != erased {
				t.Errorf("entry %d: %+v", i, e)
			}
		}
	})
	t.Run("by a stream, and in an older version than that of the row", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		s.put(t, 1, 2)
		s.put(t, 1, 2)
		c.mustPoll(t)
		at := c.stored(t)
		digest := feed.Digest{1}
		say := func(position int64, e feed.Entry) {
			t.Helper()
			e.ID, e.Position, e.Updated, e.Cursor = numbered(1), position, time.Now(), feed.At(position, digest)
			c.stream = c.newStream(nil)
			if err := c.stream.applyHeard(t.Context(), at, []Message{{Entry: e, After: at.cursor}}); err != nil {
				t.Fatal(err)
			}
			at = c.stored(t)
		}
		say(5, feed.Entry{Version: 1, Deleted: true, Erased: true})
		if _, has := c.things(t)[numbered(1)]; has {
			t.Error("the tombstone is older than the row, and not applied")
		}
		say(6, feed.Entry{Version: 9, Entity: []byte(`{"id":"` + numbered(1).String() + `","version":9,"name":"back"}`)})
		if things := c.things(t); len(things) != 1 || at.rejected != 0 || at.cursor.Position != 6 {
			t.Errorf("the copy at %s has %v", at.cursor, things)
		}
	})
}

// What the engine keeps of an entity goes with it.
func TestErasureOfRejectedAndWalked(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	s.put(t, 1, 3)
	c.mustPoll(t)
	exec(t, c.pool, `alter table thing add constraint no_more check (name not like '%, 3 published') not valid`)
	s.put(t, 1, 1)
	c.mustPoll(t)
	if left(t, c.pool) != 1 || c.stored(t).rejected != 1 {
		t.Fatal("nothing is rejected")
	}
	if err := c.resyncer.begin(t.Context(), "test", nil); err != nil {
		t.Fatal(err)
	}
	page, err := feedclient.New("").Get(t.Context(), feedclient.Request{URL: s.feedURL(), Limit: 4})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.resyncer.note(t.Context(), &feed.Page{Entries: page.Page.Entries, Cursor: page.Page.Cursor, UpToDate: true}, place{}, feed.Cursor{}); err != nil {
		t.Fatal(err)
	}
	if left(t, c.pool) != 2 {
		t.Fatal("nothing is walked")
	}
	s.erase(t, 1)
	c.mustPoll(t)
	wantErased(t, c, s)
	// A rejected entry that comes back otherwise, as with a part of a backup, is not applied by hand.
	exec(t, c.pool, `alter table thing drop constraint no_more`)
	exec(t, c.pool, `
		insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason)
		values ($1, 'things', $2, 9, 4, now(), $3, '')`, c.service, numbered(1), []byte(`{"id":"`+numbered(1).String()+`","version":9,"name":"back"}`))
	if _, _, err := c.quarantine.retry(t.Context(), numbered(1)); err != nil {
		t.Fatal(err)
	}
	wantErased(t, c, s)
	c.wantUpToDate(t, s)
}

// A reader whose own database is restored to what it was before an erasure reads the tombstone again.
func TestErasureOutlivesARestoreOfTheCopy(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, restart := range map[string]bool{"of a running service": false, "before a start": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := newCopier(t, s)
			s.put(t, 1, 3)
			c.mustPoll(t)
			exec(t, c.pool, `alter table thing add constraint no_more check (name not like '%, 3 published') not valid`)
			s.put(t, 1, 1)
			c.mustPoll(t)
			dump := pgtest.DumpFile(t, c.pool)
			s.erase(t, 1)
			s.put(t, 2, 2)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			wantErased(t, c, s)

			pgtest.RestoreFile(t, c.pool, dump)
			c.pool.Reset()
			if restart {
				c = s.copier(t, c.pool, 10)
				t.Cleanup(c.fetcher.client.Close)
			}
			if _, has := c.things(t)[numbered(1)]; !has || left(t, c.pool) != 1 {
				t.Fatal("the restore has brought nothing back")
			}
			eventually(t, "it to be up to date", func() bool {
				err := c.poll(t.Context())
				if err != nil && !strings.Contains(err.Error(), errFenced.Error()) {
					t.Fatal(err)
				}
				return err == nil && c.stored(t).cursor == s.head(t).Cursor()
			})
			c.wantUpToDate(t, s)
			wantErased(t, c, s)
		})
	}
}

// A table of the copy that is restored alone brings nobody back: neither to a pure copy nor to one with Apply.
func TestErasureOutlivesARestoreOfATable(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, columns := range map[string][]string{"a copy with Apply": nil, "a pure copy": {"name"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), 10, columns...)
			t.Cleanup(func() { c.fetcher.client.Close() })
			s.put(t, 1, 3)
			c.mustPoll(t)
			exec(t, c.pool, `create table kept as table thing`)
			s.erase(t, 1)
			c.mustPoll(t)
			for _, then := range []string{"a start", "a while"} {
				exec(t, c.pool, `insert into thing select * from kept on conflict (id) do nothing`)
				if _, has := c.things(t)[numbered(1)]; !has {
					t.Fatal("the restore has brought nothing back")
				}
				if then == "a start" {
					c = s.copier(t, c.pool, 10, columns...)
				} else {
					c.applier.erasures.looked = c.applier.erasures.looked.Add(-lookForErased)
				}
				c.mustPoll(t) // which has nothing new to read
				c.wantUpToDate(t, s)
				wantErased(t, c, s)
			}
			// What refuses a deletion holds up nothing else, and is tried again.
			exec(t, c.pool, `insert into thing select * from kept on conflict (id) do nothing`)
			exec(t, c.pool, `create function keep() returns trigger language plpgsql as 'begin raise exception ''kept''; end'`)
			exec(t, c.pool, `create trigger keep before delete on thing for each row execute function keep()`)
			s.put(t, 4, 4)
			c.applier.erasures.looked = time.Time{}
			c.mustPoll(t)
			if at := c.stored(t); at.rejected != 1 || c.things(t)[numbered(4)].Version != 1 {
				t.Errorf("%d are rejected, the copy has %v", at.rejected, c.things(t))
			}
			exec(t, c.pool, `drop trigger keep on thing`)
			c.applier.erasures.looked = time.Time{}
			c.mustPoll(t)
			if at := c.stored(t); at.rejected != 0 {
				t.Errorf("in the end %d are rejected", at.rejected)
			}
			wantErased(t, c, s)
		})
	}
}

// An erased entity whose deletion ends the session holds up no other, neither where it was noticed nor after a restart.
func TestErasureThatEndsItsSession(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	s := newSource(t)
	s.put(t, 1, 5)
	c := newCopier(t, s)
	c.mustPoll(t)
	exec(t, c.pool, `create table kept as table thing`)
	s.erase(t, 1)
	s.erase(t, 2)
	c.mustPoll(t)
	exec(t, c.pool, `insert into thing select * from kept on conflict (id) do nothing`)
	exec(t, c.pool, `create function keep() returns trigger language plpgsql as 'begin if old.name like ''thing 1,%'' then perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(0.1); end if; return old; end';
		create trigger keep before delete on thing for each row execute function keep()`)
	for n := 11; n < 13; n++ {
		c = c.restarted(t, s, 10)
		c.impatient()
		s.put(t, n, n)
		c.pollUntil(t)
		if at := c.stored(t); at.rejected != 1 || c.things(t)[numbered(n)].Version != 1 || c.things(t)[numbered(2)].Version != 0 {
			t.Errorf("%d are rejected, the copy has %v", at.rejected, c.things(t))
		}
		c.applier.erasures.looked = time.Time{}
		c.mustPoll(t)
	}
	exec(t, c.pool, `drop trigger keep on thing`)
	c = c.restarted(t, s, 10)
	c.mustPoll(t)
	c.wantRejected(t, s, "")
	wantErased(t, c, s)
}

// So it is with a restored table of what the service keeps beside its copy, and with those of the engine.
func TestErasureOutlivesARestoreOfWhatIsKept(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	exec(t, c.pool, `create table letter (thing_id uuid not null, name text)`)
	c.Kept = `exists (select from letter where thing_id = e.id and name is not null)`
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		if _, err := tx.Exec(ctx, `update letter set name = null where thing_id = any($1)`, b.Deleted); err != nil {
			return err
		}
		return copyThings(ctx, tx, b)
	}
	restore := func() {
		t.Helper()
		exec(t, c.pool, `insert into letter values ($1, 'one'), ($2, 'two')`, numbered(1), numbered(2))
		for _, id := range []uuid.UUID{numbered(1), numbered(2)} {
			exec(t, c.pool, `
				insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason) values ($1, 'things', $2, 9, 4, now(), '{}', '')`, c.service, id)
			exec(t, c.pool, `
				insert into resynced_entity (service, feed, id, version, position, updated, entity) values ($1, 'things', $2, 9, 4, now(), '{}')`, c.service, id)
		}
	}
	s.put(t, 1, 3)
	c.mustPoll(t)
	s.erase(t, 1)
	c.mustPoll(t)
	restore()
	c.applier.erasures.looked = time.Time{}
	c.mustPoll(t)
	wantErased(t, c, s)
	if n := count(t, c.pool, `select count(*) from letter where name is not null`); n != 1 {
		t.Errorf("%d letters have a name, not that of thing 2 alone", n)
	}
	if n := count(t, c.pool, `
		select (select count(*) from rejected_entry where entity is not null) + (select count(*) from resynced_entity where entity is not null)`); n != 2 {
		t.Errorf("the engine has %d entities, not two of thing 2", n)
	}
}
