package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// bans makes the database refuse what is named so: `^thing (3|4), 0 ` are things 3 and 4 as first published.
func (c *copier) bans(t testing.TB, names string) {
	t.Helper()
	exec(t, c.pool, `alter table thing add constraint banned check (name !~ '`+names+`')`)
}

// wantRejected fails the test unless exactly these things are rejected, each for a reason that says so. The copy is to
// be what the source has, but for them.
func (c *copier) wantRejected(t testing.TB, s *source, says string, numbers ...int) {
	t.Helper()
	rows, err := c.pool.Query(t.Context(), `select entity_id, reason from rejected_entry`)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[uuid.UUID]string{}
	var id uuid.UUID
	var reason string
	if _, err := pgx.ForEachRow(rows, []any{&id, &reason}, func() error { reasons[id] = reason; return nil }); err != nil {
		t.Fatal(err)
	}
	at := c.stored(t)
	if at.cursor != s.head(t).Cursor() || at.rejected != len(numbers) || len(reasons) != len(numbers) {
		t.Errorf("at %s of %s %d are rejected, %v", at.cursor, s.head(t).Cursor(), at.rejected, reasons)
	}
	has, should := c.things(t), s.things(t, at.cursor.Position)
	for _, n := range numbers {
		if reason := reasons[numbered(n)]; !strings.Contains(reason, says) {
			t.Errorf("thing %d: %q, not %q", n, reason, says)
		}
		delete(should, numbered(n))
		delete(has, numbered(n))
	}
	if !maps.Equal(has, should) {
		t.Errorf("the others are %v, not %v", has, should)
	}
}

func TestQuarantine(t *testing.T) {
	t.Parallel()
	payload := func(t *testing.T, e *thing, more string) []byte {
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return append(raw[:len(raw)-1], more...)
	}
	// Each makes some of 35 things bad, on the first page.
	for name, x := range map[string]struct {
		prepare func(t *testing.T, s *source, c *copier)
		says    string
		bad     []int
	}{
		"one that breaks a constraint": {func(t *testing.T, s *source, c *copier) {
			c.bans(t, "^thing 3, 0 ")
			s.put(t, 1, 35)
		}, `violates check constraint "banned" (SQLSTATE 23514)`, []int{3}},
		"several": {func(t *testing.T, s *source, c *copier) {
			c.bans(t, "^thing (1|4|5|8|10), 0 ")
			s.put(t, 1, 35)
		}, `violates check constraint "banned"`, []int{1, 4, 5, 8, 10}},
		"all but one": {func(t *testing.T, s *source, c *copier) {
			c.bans(t, "^thing ([1-68-9]|10), 0 ")
			s.put(t, 1, 35)
		}, `violates check constraint "banned"`, []int{1, 2, 3, 4, 5, 6, 8, 9, 10}},
		"in a pure copy": {func(t *testing.T, s *source, c *copier) {
			c.pure = true
			c.bans(t, "^thing (3|14|15|26), 0 ")
			s.put(t, 1, 35)
		}, `violates check constraint "banned"`, []int{3, 14, 15, 26}},
		"in a copy of columns, by a packet": {func(t *testing.T, s *source, c *copier) {
			*c = *s.copier(t, c.pool, 10, "name")
			c.bans(t, "^thing (3|14|15|26), 0 ")
			s.put(t, 1, 35)
		}, `violates check constraint "banned"`, []int{3, 14, 15, 26}},
		"in a copy of columns, by COPY": {func(t *testing.T, s *source, c *copier) {
			*c = *s.copier(t, c.pool, 30, "name")
			c.bans(t, "^thing (3|14|15|26), 0 ")
			s.put(t, 1, 35)
		}, `violates check constraint "banned"`, []int{3, 14, 15, 26}},
		"one that COPY cannot read": {func(t *testing.T, s *source, c *copier) {
			*c = *s.copier(t, c.pool, 30, "name")
			s.put(t, 1, 2)
			e := s.version(3)
			e.Payload = []byte(`{"name":"\ud800"}`)
			s.publish(t, e)
			s.put(t, 4, 35)
		}, `surrogate`, []int{3}},
		"at the commit": {func(t *testing.T, s *source, c *copier) {
			exec(t, c.pool, `
				create function refuse() returns trigger language plpgsql as
					'begin raise exception ''% is banned'', new.name using errcode = ''check_violation''; end';
				create constraint trigger refuse after insert or update on thing deferrable initially deferred
					for each row when (new.name ~ '^thing (2|7), 0 ') execute function refuse()`)
			s.put(t, 1, 35)
		}, ` published is banned (SQLSTATE 23514)`, []int{2, 7}},
		"one that PostgreSQL cannot decode": {func(t *testing.T, s *source, _ *copier) {
			s.put(t, 1, 2)
			e := s.version(3)
			e.Payload = payload(t, &thing{e.ID, e.Version, "thing\x00"}, "}")
			s.publish(t, e)
			s.put(t, 4, 35)
		}, `unsupported Unicode escape sequence (SQLSTATE 22P05)`, []int{3}},
		"one that Go cannot decode": {func(t *testing.T, s *source, c *copier) {
			apply := c.Apply
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				var weighed struct{ Weight int }
				for _, e := range b.Entities {
					if err := json.Unmarshal(e.Entity, &weighed); err != nil {
						return fmt.Errorf("weigh %s: %w", e.ID, err)
					}
				}
				return apply(ctx, tx, b)
			}
			s.put(t, 1, 2)
			e := s.version(3)
			e.Payload = payload(t, &thing{e.ID, e.Version, "thing 3"}, `,"weight":"heavy"}`)
			s.publish(t, e)
			s.put(t, 4, 35)
		}, `weigh ` + numbered(3).String() + `: json: cannot unmarshal string into Go struct field .Weight of type int`, []int{3}},
		"where Apply relies on a constraint that is checked at the commit": {func(t *testing.T, s *source, c *copier) {
			exec(t, c.pool, `create table part (thing uuid primary key references thing deferrable initially deferred)`)
			apply := c.Apply
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				_, err := tx.Exec(ctx, `insert into part select unnest($1::uuid[]) on conflict do nothing`, b.IDs())
				return errors.Join(err, apply(ctx, tx, b))
			}
			c.bans(t, "^thing 1, 0 ")
			s.put(t, 1, 35)
		}, `violates check constraint "banned"`, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := newCopier(t, s)
			x.prepare(t, s, c)
			c.mustPoll(t)
			c.wantRejected(t, s, x.says, x.bad...)
			if shown := c.status(time.Now()); shown.State != Fresh || shown.RejectedEntries != len(x.bad) {
				t.Errorf("it shows %+v", shown)
			}
			c.mustPoll(t) // which does not bring them again
			c.wantRejected(t, s, x.says, x.bad...)
			s.put(t, 1, 35) // all of them are good now
			c.mustPoll(t)
			c.wantRejected(t, s, "")
			c.wantUpToDate(t, s)
		})
	}

	t.Run("all of a page: nothing moves, and it backs off", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 10)
		c := newCopier(t, s)
		c.mustPoll(t)
		exec(t, c.pool, `alter table thing add constraint banned check (name !~ '^thing (10|1[1-9]|20), ') not valid`)
		s.put(t, 11, 25)
		err := c.poll(t.Context())
		if err == nil || !strings.Contains(err.Error(), "every one of the 10 entries was refused, the first: ") || !strings.Contains(err.Error(), "(SQLSTATE 23514)") {
			t.Fatalf("%v", err)
		}
		now := time.Now()
		if next := c.state.after(err, now); !next.After(now) {
			t.Error("it does not back off")
		}
		if at := c.stored(t); at.cursor.Position != 10 || at.rejected > 0 || len(c.things(t)) != 10 {
			t.Errorf("it is at %s with %d things, %d rejected", at.cursor, len(c.things(t)), at.rejected)
		}
		exec(t, c.pool, `alter table thing drop constraint banned`)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})

	t.Run("a page of one", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 1)
		c := newCopier(t, s)
		c.bans(t, "^thing 1, 0 ")
		c.mustPoll(t)
		c.wantRejected(t, s, "banned", 1)
		s.remove(t, 1)
		c.mustPoll(t)
		c.wantRejected(t, s, "")
		c.wantUpToDate(t, s)
	})

	t.Run("a bad version keeps the good one before it", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.mustPoll(t)
		before := c.things(t)[numbered(2)]
		c.bans(t, "^thing 2, 5 ")
		s.put(t, 1, 5)
		c.mustPoll(t)
		c.wantRejected(t, s, "banned", 2)
		if c.things(t)[numbered(2)] != before {
			t.Errorf("it has %v, before %v", c.things(t)[numbered(2)], before)
		}
		if n := count(t, c.pool, `select version from rejected_entry`); n != 2 {
			t.Errorf("version %d is rejected", n)
		}
	})

	t.Run("a deletion that is refused", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.mustPoll(t)
		exec(t, c.pool, `create table kept (thing uuid references thing)`)
		exec(t, c.pool, `insert into kept values ($1)`, numbered(3))
		s.remove(t, 3)
		s.put(t, 4, 6)
		c.mustPoll(t)
		c.wantRejected(t, s, `violates foreign key constraint "kept_thing_fkey"`, 3)
		if n := count(t, c.pool, `select count(*) from rejected_entry where entity is null`); n != 1 || len(c.things(t)) != 6 {
			t.Errorf("%d deletions are rejected, %d things are there", n, len(c.things(t)))
		}
		s.put(t, 3, 3)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantRejected(t, s, "")
	})

	t.Run("an Apply that panics is no entry's fault", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		apply := c.Apply
		c.Apply = func(context.Context, pgx.Tx, *Batch) error { panic("no such model") }
		err := c.poll(t.Context())
		if err == nil || err.Error() != "apply the page after 0: every one of the 5 entries was refused, the first: apply panicked: a value of type string" {
			t.Errorf("%v", err)
		}
		if at := c.stored(t); at.rejected > 0 || at.cursor.Position > 0 {
			t.Errorf("%d are rejected at %s", at.rejected, at.cursor)
		}
		c.Apply = apply
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})
}

// A version that breaks the contract hides no good one before it, wherever the pages end.
func TestContractAndPageBounds(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	pgtest.Slow(t, "many databases")
	s := newSource(t)
	bad := func(n int) {
		e := s.version(n)
		e.Payload = fmt.Appendf(nil, `{"id":"%s","version":%d}`, e.ID, e.Version)
		s.publish(t, e)
	}
	s.put(t, 1, 5)
	bad(1)
	bad(2)
	s.put(t, 2, 2)
	s.put(t, 3, 3)
	bad(3)
	s.remove(t, 4)
	bad(4)
	bad(6)
	want := map[int]int64{2: 3, 1: 1, 3: 2, 5: 1}
	for _, size := range []int{1, 2, 3, 7, 100} {
		for _, resynced := range []bool{false, true} {
			t.Run(fmt.Sprintf("pages of %d, resynced %t", size, resynced), func(t *testing.T) {
				t.Parallel()
				c := s.copier(t, pgtest.New(t, sql.Migrations("subscribe"), thingMigrations), size)
				t.Cleanup(c.fetcher.client.Close)
				c.Check = func(e feed.Entry) error {
					if !e.Deleted && !strings.Contains(string(e.Entity), `"name"`) {
						return errors.New("it has no name")
					}
					return nil
				}
				if resynced {
					c.resync(t)
				}
				c.mustPoll(t)
				got := map[int]int64{}
				things := c.things(t)
				for n := range 7 {
					if thing, has := things[numbered(n)]; has {
						got[n] = thing.Version
					}
				}
				if !maps.Equal(got, want) {
					t.Errorf("the versions of the copy are %v, want %v", got, want)
				}
				if at := c.stored(t); at.cursor != s.head(t).Cursor() || at.rejected != 4 {
					t.Errorf("%d are rejected at %s", at.rejected, at.cursor)
				}
			})
		}
	}
}

// Logs are kept when an entity is erased.
func TestNoLogQuotesAnEntry(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, refuse := range map[string]func(t *testing.T, c *copier){
		"a constraint":             func(t *testing.T, c *copier) { c.bans(t, "^thing [1-3], ") },
		"a value":                  func(t *testing.T, c *copier) { exec(t, c.pool, `alter table thing add check (name::int > 0)`) },
		"what Go decodes":          func(_ *testing.T, c *copier) { c.Apply = decodes[struct{ Name int }] },
		"what Go decodes, further": func(_ *testing.T, c *copier) { c.Apply = decodes[struct{ Version []int }] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 1)
			c := newCopier(t, s)
			var log strings.Builder
			c.logger = slog.New(slog.NewTextHandler(&log, nil))
			refuse(t, c)
			c.mustPoll(t) // a page of one
			if n := count(t, c.pool, `select count(*) from rejected_entry`); n != 1 {
				t.Errorf("%d are rejected", n)
			}
			s.put(t, 2, 3)
			err := c.poll(t.Context()) // a page of which every entry is refused
			c.state.after(err, time.Now())
			if _, ok := errors.AsType[*refusedError](err); !ok {
				t.Errorf("%v", err)
			}
			text := log.String()
			if !strings.Contains(text, "entry rejected") || !strings.Contains(text, "poll failed") || strings.Contains(text, "published") || strings.Contains(text, "number") {
				t.Error(text)
			}
		})
	}

	t.Run("a tombstone takes the reason along", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 1)
		c := newCopier(t, s)
		exec(t, c.pool, `alter table thing add check (name::int > 0)`)
		c.mustPoll(t)
		c.wantRejected(t, s, `invalid input syntax for type integer: "thing 1, 0 published"`, 1)
		s.remove(t, 1)
		c.mustPoll(t)
		c.wantRejected(t, s, "")
	})
}

// decodes refuses what is no V.
func decodes[V any](_ context.Context, _ pgx.Tx, b *Batch) error {
	for _, e := range b.Entities {
		if err := json.Unmarshal(e.Entity, new(V)); err != nil {
			return err
		}
	}
	return nil
}
