package subscribe

import (
	"context"
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

const uniqueNames = `alter table thing add constraint thing_name_key unique (name)`

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
