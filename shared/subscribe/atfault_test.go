package subscribe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// rename publishes things of these numbers and names, each in a transaction of its own.
func (s *source) rename(t testing.TB, pairs ...any) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		s.publish(t, s.named(pairs[i].(int), pairs[i+1].(string)))
	}
}

const (
	uniqueNames = `alter table thing add constraint thing_name_key unique (name)`
	brokenNote  = `
		create function note() returns trigger language plpgsql as 'begin perform missing(new.name); return new; end';
		create trigger note after insert on thing for each row execute function note()`
)

// restarted is the copier of a process that has just started.
func (c *copier) restarted(t *testing.T, s *source, size int) *copier {
	t.Helper()
	next := s.copier(t, c.pool, size)
	t.Cleanup(next.fetcher.client.Close)
	next.Apply = c.Apply
	return next
}

// One bad entry, and a copy that does not take back what it has deleted, or not as it once was: the entry is put aside,
// also after a restart, and the others arrive.
func TestBadEntryHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	const bad = 6
	for name, x := range map[string]struct {
		begin   func(t *testing.T, s *source, c *copier)
		goOn    func(t *testing.T, s *source, c *copier) // publishes the bad one, 7 and 8
		restart bool
		says    string
	}{
		"a unique name that moved on the page": {
			func(t *testing.T, s *source, c *copier) {
				exec(t, c.pool, uniqueNames)
				s.rename(t, 1, "a", 2, "b", 3, "c", 4, "d", 5, "e")
			},
			func(t *testing.T, s *source, _ *copier) {
				s.rename(t, 5, "x", 2, "e", bad, "c", 7, "g", 8, "h")
			}, false, "thing_name_key",
		},
		"a unique name that moved before the start": {
			func(t *testing.T, s *source, c *copier) {
				exec(t, c.pool, uniqueNames)
				s.rename(t, 1, "a", 2, "b", 3, "c", 4, "d", 5, "e", 1, "x", 2, "a")
			},
			func(t *testing.T, s *source, _ *copier) { s.rename(t, bad, "c", 7, "g", 8, "h") }, true, "thing_name_key",
		},
		"a constraint that was added since": {
			func(t *testing.T, s *source, _ *copier) { s.rename(t, 1, "a", 2, "b", 1, "code x", 2, "code a") },
			func(t *testing.T, s *source, c *copier) {
				exec(t, c.pool, `alter table thing add constraint coded check (name ~ '^code')`)
				s.rename(t, bad, "c", 7, "code g", 8, "code h")
			}, true, "coded",
		},
		"a parent that is gone": {
			func(t *testing.T, s *source, c *copier) {
				exec(t, c.pool, `create table parent (name text primary key); insert into parent values ('p'), ('q');
					alter table thing add constraint parented foreign key (name) references parent on delete cascade`)
				s.rename(t, 1, "p", 2, "q", 3, "q")
			},
			func(t *testing.T, s *source, c *copier) {
				exec(t, c.pool, `delete from parent where name = 'q'`)
				s.rename(t, 2, "p", 3, "p", bad, "none", 7, "p", 8, "p")
			}, false, "parented",
		},
		"what is deleted is deleted for good": {
			func(t *testing.T, s *source, c *copier) {
				exec(t, c.pool, `create table gone (id uuid primary key);
					create function del() returns trigger language plpgsql as 'begin insert into gone values (old.id); return old; end';
					create function ins() returns trigger language plpgsql as 'begin
						if new.name = ''bad'' then raise exception ''a bad name''; end if;
						if exists (select from gone where id = new.id) then raise exception ''deleted for good''; end if;
						return new; end';
					create trigger del after delete on thing for each row execute function del();
					create trigger ins before insert or update on thing for each row execute function ins()`)
				s.put(t, 1, 5)
			},
			func(t *testing.T, s *source, _ *copier) { s.rename(t, bad, "bad", 7, "g", 8, "h") }, true, "a bad name",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := newCopier(t, s)
			x.begin(t, s, c)
			c.mustPoll(t)
			if x.restart {
				c = c.restarted(t, s, 10)
			}
			x.goOn(t, s, c)
			c.mustPoll(t)
			c.wantRejected(t, s, x.says, bad)
		})
	}

	t.Run("where the feed's first page cannot be read", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.bans(t, "^bad")
		s.rename(t, bad, "bad", 7, "g", 8, "h")
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if r.URL.Query().Get("after") == "0" {
				http.Error(w, "too slow", http.StatusGatewayTimeout)
				return
			}
			honest.ServeHTTP(w, r)
		})
		c = c.restarted(t, s, 10)
		c.mustPoll(t)
		c.wantRejected(t, s, "banned", bad)
	})

	t.Run("in a resync to another history", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		exec(t, c.pool, uniqueNames)
		s.rename(t, 1, "a", 2, "b", 3, "c", 4, "d", 5, "e")
		c.mustPoll(t)
		s.begin(t)
		s.rename(t, 11, "a", 12, "b", 13, "e", bad, "b", 15, "z")
		c.mustPoll(t)
		c.wantRejected(t, s, "thing_name_key", bad)
	})
}

// Where everything new is refused, and no witness can tell, the database's error does: nothing is put aside.
func TestServiceAtFaultWithoutWitness(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, begin := range map[string]func(t *testing.T, s *source, c *copier) *copier{
		"after a restart and a resync": func(t *testing.T, s *source, c *copier) *copier {
			c = c.restarted(t, s, 10)
			c.resync(t)
			c.mustPoll(t)
			exec(t, c.pool, brokenNote)
			return c
		},
		"in a resync": func(t *testing.T, s *source, c *copier) *copier {
			exec(t, c.pool, brokenNote)
			c = c.restarted(t, s, 10)
			c.resync(t)
			return c
		},
		"where the first page has nothing that is left": func(t *testing.T, s *source, c *copier) *copier {
			for n := 10; n < 110; n++ {
				s.remove(t, n)
			}
			c.mustPoll(t)
			exec(t, c.pool, brokenNote)
			return c.restarted(t, s, 10)
		},
		"where nothing can be deleted": func(t *testing.T, _ *source, c *copier) *copier {
			exec(t, c.pool, `create table kept (thing uuid references thing); insert into kept select id from thing`)
			exec(t, c.pool, brokenNote)
			return c
		},
		"where Apply only marks what is deleted": func(t *testing.T, _ *source, c *copier) *copier {
			exec(t, c.pool, brokenNote)
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				b.Deleted = nil
				return copyThings(ctx, tx, b)
			}
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 10, 109) // the first page, without a witness if they are removed
			s.put(t, 1, 5)
			c := newCopier(t, s)
			c.mustPoll(t)
			c = begin(t, s, c)
			s.put(t, 1, 1)
			s.put(t, 6, 6)
			for range 2 {
				if err := c.poll(t.Context()); !errors.As(err, new(*refusedError)) {
					t.Errorf("the poll: %v", err)
				}
			}
			if at := c.stored(t); at.rejected > 0 || at.cursor == s.head(t).Cursor() {
				t.Errorf("%d are rejected at %s", at.rejected, at.cursor)
			}
			exec(t, c.pool, `drop trigger note on thing`)
			c.Apply = copyThings
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		})
	}

	t.Run("while a table that only inserts touch is locked", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		exec(t, c.pool, `create table noted (name text);
			create function note() returns trigger language plpgsql as 'begin insert into noted values (new.name); return new; end';
			create trigger note after insert on thing for each row execute function note()`)
		s.put(t, 1, 5)
		c.mustPoll(t)
		tx, err := c.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		if _, err := tx.Exec(t.Context(), `lock table noted in exclusive mode`); err != nil {
			t.Fatal(err)
		}
		c.timeout = 4 * time.Second
		s.put(t, 1, 3)
		s.put(t, 6, 6)
		for range maxDoubts + 1 {
			if err := c.poll(t.Context()); !errors.As(err, new(*refusedError)) {
				t.Errorf("the poll: %v", err)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})
}

// An entry that takes many statements, none of them slow, is put aside as well by a service that publishes.
func TestSlowEntryOfPublisher(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "entries that take long")
	s := newSource(t)
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("publish"), echoMigrations)
	c := s.echoer(t, pool)
	apply := c.Apply
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		for _, e := range b.Entities {
			if e.ID != numbered(7) {
				continue
			}
			for range 20 {
				if _, err := tx.Exec(ctx, `select pg_sleep(0.4)`); err != nil {
					return fmt.Errorf("wait: %w", err)
				}
			}
		}
		return apply(ctx, tx, b)
	}
	c.timeout = 6 * time.Second
	s.put(t, 1, 5)
	c.mustPoll(t)
	s.put(t, 6, 9)
	eventually(t, "a poll to succeed", func() bool { return c.poll(t.Context()) == nil })
	if at := c.stored(t); at.rejected != 1 || at.cursor != s.head(t).Cursor() || len(c.things(t)) != 8 {
		t.Errorf("%d are rejected at %s, %d things are there", at.rejected, at.cursor, len(c.things(t)))
	}
}
