package subscribe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// triesAgain does what run does after a poll, as soon as that is due.
func (c *copier) triesAgain(t testing.TB) {
	t.Helper()
	c.quarantine.retries.at = time.Time{}
	if err := c.quarantine.retryDue(t.Context(), func() bool { return true }); err != nil {
		t.Fatal(err)
	}
}

// What the service's fault keeps out of the copy arrives by itself when that is mended, whether the polls failed or the
// entries were put aside. What passes arrives at once.
func TestRejectedByTheServicesFault(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	trigger := func(when, body string) string {
		return `create function note() returns trigger language plpgsql as 'begin ` + body + ` return coalesce(new, old); end';
			create trigger note after ` + when + ` on thing for each row ` + ` execute function note()`
	}
	const (
		lacks  = `perform missing(1);`
		quotes = `raise exception ''no tariff for %'', new.name;`
	)
	put := func(s *source, t *testing.T, pairs ...int) {
		for i := 0; i < len(pairs); i += 2 {
			s.put(t, pairs[i], pairs[i+1])
		}
	}
	for name, x := range map[string]struct {
		fault  string
		apply  func(ctx context.Context, tx pgx.Tx, b *Batch) error
		resync bool
		change func(t *testing.T, s *source)
	}{
		"a function that new rows need is missing":      {fault: trigger("insert", lacks), change: func(t *testing.T, s *source) { put(s, t, 1, 1, 6, 6) }},
		"the same, and no other entry comes":            {fault: trigger("insert", lacks), change: func(t *testing.T, s *source) { put(s, t, 6, 6) }},
		"the reason names the row":                      {fault: trigger("insert", quotes), change: func(t *testing.T, s *source) { put(s, t, 1, 1, 6, 10) }},
		"updates are refused":                           {fault: trigger("update", lacks), change: func(t *testing.T, s *source) { put(s, t, 1, 2, 6, 9) }},
		"deletions are refused":                         {fault: trigger("delete", lacks), change: func(t *testing.T, s *source) { s.remove(t, 1); s.remove(t, 2); put(s, t, 6, 8) }},
		"deletions are refused, and nothing else comes": {fault: trigger("delete", lacks), change: func(t *testing.T, s *source) { s.remove(t, 1); s.remove(t, 2) }},
		"deletions are refused at the end of a resync":  {fault: trigger("delete", lacks), resync: true, change: func(t *testing.T, s *source) { s.begin(t); put(s, t, 4, 8) }},
		"new rows are refused at the end of a resync":   {fault: trigger("insert", lacks), resync: true, change: func(t *testing.T, s *source) { s.begin(t); put(s, t, 1, 5, 6, 8) }},
		"a partition is missing": {fault: `
			alter table thing rename to parted; create table thing (like parted) partition by list (name);
			create table thing_old partition of thing for values in ('thing 1, 0 published', 'thing 2, 0 published', 'thing 3, 0 published', 'thing 4, 0 published', 'thing 5, 0 published');
			insert into thing select * from parted; create unique index on thing (id, name)`,
			apply: func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				for _, e := range b.Entities {
					if _, err := tx.Exec(ctx, `delete from thing where id = $1`, e.ID); err != nil {
						return err
					}
				}
				_, err := tx.Exec(ctx, `insert into thing select id, version, name from jsonb_to_recordset($1) as t (id uuid, version bigint, name text)`, b.JSON())
				return err
			}, change: func(t *testing.T, s *source) { put(s, t, 6, 7) }},
		"Go code that names the entry": {apply: func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			for _, e := range b.Entities {
				var has bool
				if err := tx.QueryRow(ctx, `select exists (select from thing where id = $1)`, e.ID).Scan(&has); err != nil {
					return err
				}
				if !has {
					return fmt.Errorf("price of %s: %w", e.ID, errors.New("no price list is loaded"))
				}
			}
			return copyThings(ctx, tx, b)
		}, change: func(t *testing.T, s *source) { put(s, t, 1, 1, 6, 6) }},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %t", name, restarted), func(t *testing.T) {
				t.Parallel()
				s := newSource(t)
				s.put(t, 1, 5)
				c := newCopier(t, s)
				c.mustPoll(t)
				if x.fault != "" {
					exec(t, c.pool, x.fault)
				}
				if x.apply != nil {
					c.Apply = x.apply
				}
				if restarted {
					c = c.restarted(t, s, 10)
				}
				x.change(t, s)
				err := c.poll(t.Context())
				at := c.stored(t)
				if refused := errors.As(err, new(*refusedError)); refused == (at.rejected > 0) || err != nil && !refused {
					t.Errorf("%d are rejected: %v", at.rejected, err)
				}
				if at.rejected > 0 {
					c.triesAgain(t)
					if again := c.stored(t); again.rejected != at.rejected {
						t.Errorf("%d of %d are rejected the second time", again.rejected, at.rejected)
					}
				}
				// mended
				exec(t, c.pool, `drop trigger if exists note on thing; do 'begin if to_regclass(''parted'') is not null then create table thing_new partition of thing default; end if; end'`)
				if x.fault == "" {
					c.Apply = copyThings
				}
				c.mustPoll(t)
				if c.stored(t).rejected > 0 {
					c.triesAgain(t)
				}
				c.wantRejected(t, s, "")
				c.wantUpToDate(t, s)
			})
		}
	}
}

// The tries begin soon after an entry is rejected, become rarer, and begin again with the next one.
func TestWhenRejectedEntriesAreTriedAgain(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	c.bans(t, "^thing [3-9], ")
	s.put(t, 1, 4)
	attempts := func() int { return count(t, c.pool, `select sum(attempts) from rejected_entry`) }
	after := func(want time.Duration, tries int) {
		t.Helper()
		if got := time.Until(c.quarantine.retries.at); got > want || got < want-10*time.Second || attempts() != tries {
			t.Errorf("the next try is in %v, after %d; want %v, %d", got, attempts(), want, tries)
		}
	}
	c.mustPoll(t)
	after(time.Minute, 2)
	if err := c.quarantine.retryDue(t.Context(), func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	after(time.Minute, 2) // not yet
	for i, want := range []time.Duration{2, 4, 8, 16, 32, 60, 60} {
		c.triesAgain(t)
		after(want*time.Minute, 4+2*i)
	}
	s.put(t, 5, 6)
	s.put(t, 1, 2)
	c.mustPoll(t)
	after(time.Minute, 18)
	exec(t, c.pool, `alter table thing drop constraint banned`)
	c.bans(t, "^thing 6, ")
	c.triesAgain(t)
	after(time.Minute, 2)
	c.wantRejected(t, s, "banned", 6)
	c.quarantine.retries.at = time.Time{}
	if err := c.quarantine.retryDue(t.Context(), func() bool { return false }); err != nil { // paused, or stopped
		t.Fatal(err)
	}
	if got := attempts(); got != 2 {
		t.Errorf("%d attempts", got)
	}
}

// A process tries the entries again that an earlier one has rejected.
func TestRejectedBeforeTheStart(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	c.bans(t, "^thing 3, ")
	s.put(t, 1, 4)
	c.mustPoll(t)
	c.wantRejected(t, s, "banned", 3)
	exec(t, c.pool, `alter table thing drop constraint banned`)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	next := c.restarted(t, s, 10)
	go func() { defer close(ended); next.run(ctx) }()
	eventually(t, "the entry to arrive", func() bool { return len(c.things(t)) == 4 })
	stop()
	<-ended
	c.wantRejected(t, s, "")
}

// An entry whose application ends the session with the database holds up no other, and is not tried again by itself:
// it may stop the whole database.
func TestEntryThatEndsItsSession(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	trigger := func(kind string) func(t *testing.T, c *copier) {
		return func(t *testing.T, c *copier) {
			exec(t, c.pool, `drop function if exists note cascade; create function note() returns trigger language plpgsql as 'begin if new.name = ''bad'' then perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(0.1); end if; return new; end';
				create `+kind+` for each row execute function note()`)
		}
	}
	for name, x := range map[string]struct {
		columns []string
		begin   func(t *testing.T, c *copier)
	}{
		"terminated":             {nil, trigger(`trigger note after insert on thing`)},
		"terminated, pure copy":  {[]string{"name"}, trigger(`trigger note after insert on thing`)},
		"terminated, at the end": {nil, trigger(`constraint trigger note after insert on thing deferrable initially deferred`)},
		"idle in its transaction": {nil, func(_ *testing.T, c *copier) {
			c.failsOn(7, func(ctx context.Context, tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `set local idle_in_transaction_session_timeout = '100ms'`); err != nil {
					return err
				}
				for there := true; there && ctx.Err() == nil; {
					err := c.pool.QueryRow(ctx, `select exists (select from pg_stat_activity where pid = $1), pg_sleep(0.01)`, tx.Conn().PgConn().PID()).Scan(&there, nil)
					if err != nil {
						return err
					}
				}
				return nil
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 5)
			c := s.copier(t, newCopier(t, s).pool, 10, x.columns...)
			t.Cleanup(c.fetcher.client.Close)
			c.mustPoll(t)
			c.impatient()
			x.begin(t, c)
			s.put(t, 6, 6)
			s.rename(t, 7, "bad")
			s.put(t, 8, 20)
			if failed := c.pollUntil(t); failed < maxDoubts {
				t.Errorf("%d polls failed", failed)
			}
			c.wantRejected(t, s, sessionEnded, 7)
			c.quarantine.retries.at = time.Time{} // at the start
			if err := c.quarantine.retryDue(t.Context(), mayGoOn); !errors.As(err, new(*sessionError)) {
				t.Errorf("at the start: %v", err)
			}
			c.quarantine.retries.at = time.Now()
			if err := c.quarantine.retryDue(t.Context(), mayGoOn); err != nil {
				t.Errorf("later: %v", err)
			}
			s.put(t, 21, 22)
			c.mustPoll(t)
			c.resync(t)
			s.put(t, 23, 24)
			c.pollUntil(t)
			c.wantRejected(t, s, sessionEnded, 7)
			if x.columns != nil {
				return
			}
			c = c.restarted(t, s, 10) // in a process that does not know of it
			c.impatient()
			x.begin(t, c)
			c.resync(t)
			c.pollUntil(t)
			c.wantRejected(t, s, sessionEnded, 7)
		})
	}
}

func mayGoOn() bool { return true }

// Where every session ends, no entry is at fault.
func TestEverythingEndsItsSession(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	s := newSource(t)
	s.put(t, 1, 5)
	c := newCopier(t, s)
	c.mustPoll(t)
	c.impatient()
	exec(t, c.pool, `create function note() returns trigger language plpgsql as 'begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(0.1); return new; end';
		create trigger note after insert or update on thing for each row execute function note()`)
	s.put(t, 1, 3)
	for began := time.Now(); time.Since(began) < 3*c.timeout; {
		err := c.poll(t.Context())
		if c.state.after(err, time.Now()); err == nil {
			t.Fatal("the poll succeeds")
		}
	}
	if at := c.stored(t); at.rejected > 0 {
		t.Errorf("%d are rejected", at.rejected)
	}
	exec(t, c.pool, `drop trigger note on thing`)
	c.pollUntil(t)
	c.wantRejected(t, s, "")
}

// An entry whose retry fails with all others, whatever the reason, keeps them from nothing.
func TestRetryThatFails(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	raises := func(code string) func(ctx context.Context, tx pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `do 'begin raise exception using errcode = ''`+code+`''; end'`)
			return err
		}
	}
	for name, fail := range map[string]func(ctx context.Context, tx pgx.Tx) error{
		"53200": fails("53200"), "XX001": fails("XX001"), "58030": fails("58030"), "25006": fails("25006"), "40001": raises("40001"), "55P03": raises("55P03"),
		"it ends its session": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`)
			return err
		},
		"it hangs": func(ctx context.Context, _ pgx.Tx) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 5)
			c := newCopier(t, s)
			c.mustPoll(t)
			apply := c.Apply
			lacks := func(context.Context, pgx.Tx) error { return errors.New("the service lacks something") }
			for _, n := range []int{7, 8, 9} {
				c.failsOn(n, lacks)
			}
			s.put(t, 6, 10)
			c.mustPoll(t)
			c.wantRejected(t, s, "lacks something", 7, 8, 9)
			c.Apply = apply
			c.impatient()
			c.failsOn(7, fail)
			for range 3 {
				c.mustPoll(t)
				c.quarantine.retries.at = time.Now()
				_ = c.quarantine.retryDue(t.Context(), mayGoOn)
			}
			c.wantRejected(t, s, "", 7)
			c.Apply = apply
			for range 3 {
				c.quarantine.retries.at = time.Time{}
				_ = c.quarantine.retryDue(t.Context(), mayGoOn)
			}
			c.wantRejected(t, s, "")
		})
	}
}

// Entries that need each other arrive together.
func TestRejectedEntriesThatNeedEachOther(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	exec(t, c.pool, uniqueNames+` deferrable initially deferred`)
	s.rename(t, 1, "a", 2, "b", 3, "c")
	c.mustPoll(t)
	exec(t, c.pool, `create function refuse() returns trigger language plpgsql as 'begin perform missing(1); return new; end';
		create trigger refuse before update on thing for each row when (new.name ~ '^[ab]$' and old.name <> new.name) execute function refuse()`)
	s.rename(t, 1, "tmp", 2, "a", 1, "b", 4, "d")
	c.mustPoll(t)
	c.wantRejected(t, s, "missing", 1, 2)
	exec(t, c.pool, `drop trigger refuse on thing`)
	c.triesAgain(t)
	c.wantRejected(t, s, "")
	c.wantUpToDate(t, s)
}

// Entries that are rejected all the time put the next try off for none, and a pause does not, either.
func TestRetryIsNotPutOff(t *testing.T) {
	t.Parallel()
	q := &quarantine{target: &target{}}
	q.retrySoon()
	at := q.retries.at
	q.retrySoon()
	if !q.retries.at.Equal(at) {
		t.Errorf("first at %v, then at %v", at, q.retries.at)
	}
	q.retries.at, q.retries.pause = time.Now(), firstRetry
	if err := q.retryDue(t.Context(), func() bool { return false }); err != nil || q.retries.pause != firstRetry {
		t.Errorf("%v, the pause is %v", err, q.retries.pause)
	}
	q.retries.at, q.retries.pause = time.Now().Add(lastRetry), lastRetry
	if q.retrySoon(); time.Until(q.retries.at) > firstRetry {
		t.Errorf("the next try is at %v", q.retries.at)
	}
}

// Very many entries that the service's fault has put aside are applied one thousand after the other once it is mended.
// What comes meanwhile is copied between two thousands.
func TestManyRejectedThatAreMended(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	c.mustPoll(t)
	exec(t, c.pool, `
		insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason)
		select $1, 'things', id, 1, row_number() over (), now(), convert_to(json_build_object('id', id, 'version', 1, 'name', 'x')::text, 'UTF8'), 'refused'
		  from (select gen_random_uuid() as id from generate_series(1, $2)) as ids`, c.service, 2*retryAtOnce+1)
	c.stored(t) // as run does every second
	c.state.given.schedule, c.state.given.wait = parse(t, "@monthly", ""), 25*time.Second
	c.state.tuned = c.state.given
	var batches []int
	apply := c.Apply
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		if batches = append(batches, len(b.Entities)); len(batches) == 1 {
			s.put(t, 1, 1)
		}
		return apply(ctx, tx, b)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.run(ctx) }()
	eventually(t, "all are applied", func() bool {
		return count(t, c.pool, `select count(*) from rejected_entry`) == 0 && count(t, c.pool, `select count(*) from thing`) == 2*retryAtOnce+2
	})
	stop()
	<-ended
	if want := []int{retryAtOnce, 1, retryAtOnce, 1}; !slices.Equal(batches, want) {
		t.Errorf("the batches are %v, not %v", batches, want)
	}
}

// Entries that a wrong clock rejected in the future are tried again, too, however many fail again and again.
func TestRejectedInTheFuture(t *testing.T) {
	t.Parallel()
	c := newCopier(t, newSource(t))
	exec(t, c.pool, `
		insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason, rejected_at)
		select $1, 'things', id, 1, 1, now(), '{}'::bytea, 'refused', now() - interval '1 minute' from (select gen_random_uuid() as id from generate_series(1, $2)) as ids
		 union all select $1, 'things', $3, 1, 1, now(), '{}'::bytea, 'refused', now() + interval '10 days'`, c.service, retryAtOnce, numbered(1))
	together, _, err := c.quarantine.toRetry(t.Context(), false)
	if err != nil || len(together) != retryAtOnce || together[0] != numbered(1) {
		t.Errorf("%d are tried, %v", len(together), err)
	}
}

// Entries that were refused do not add up in the transaction that applies the rest, as at the end of a resync.
func TestManyRefusedInOneTransaction(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many attempts")
	s := newSource(t)
	c := s.copier(t, newCopier(t, s).pool, 1000)
	t.Cleanup(c.fetcher.client.Close)
	c.bans(t, "[1379], ")
	most := 0
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		var locks int
		if err := tx.QueryRow(ctx, `select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'transactionid'`).Scan(&locks); err != nil {
			return err
		}
		most = max(most, locks)
		return copyThings(ctx, tx, b)
	}
	s.put(t, 1, 300)
	c.mustPoll(t)
	c.resync(t)
	c.mustPoll(t)
	if at := c.stored(t); at.rejected != 120 || most > 20 {
		t.Errorf("%d are rejected, with %d locks", at.rejected, most)
	}
}

// Rows that refer to each other, in whatever order, arrive although one among them is bad.
func TestChainWithABadEntry(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many attempts")
	const n = 400
	for name, other := range map[string]string{"the one before": "- 1", "the next one": "+ 1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := s.copier(t, newCopier(t, s).pool, 1000)
			t.Cleanup(c.fetcher.client.Close)
			exec(t, c.pool, `alter table thing add unique (name), add check (name <> 'bad')`)
			s.put(t, 1000, 1001)
			c.mustPoll(t)
			exec(t, c.pool, fmt.Sprintf(`
				alter table thing add of text generated always as (case when name ~ '^[0-9]+$' and name::int not in (1, %d) then (name::int %s)::text end) stored;
				alter table thing add foreign key (of) references thing (name) deferrable initially deferred`, n, other))
			for i := 1; i <= n; i++ {
				s.rename(t, i, fmt.Sprint(i))
			}
			s.rename(t, 999, "bad")
			c.mustPoll(t)
			c.wantRejected(t, s, "thing_name_check", 999)
		})
	}
}

// What is bad by its data is put aside, whatever its error looks like.
func TestBadDataThatLooksLikeTheServicesFault(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	t.Run("a type that is not there, after a resync", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			if _, err := tx.Exec(ctx, `select (case when e->>'name' = 'klingon' then e->>'name' else 'english' end)::regconfig from jsonb_array_elements($1) as e`, b.JSON()); err != nil {
				return err
			}
			return copyThings(ctx, tx, b)
		}
		s.put(t, 1, 5)
		s.rename(t, 6, "klingon")
		s.put(t, 7, 9)
		c.mustPoll(t)
		c.wantRejected(t, s, "klingon", 6)
		c.resync(t)
		c.mustPoll(t)
		c.wantRejected(t, s, "klingon", 6)
	})
	t.Run("more in a row than Apply takes at once", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 10)
		c := newCopier(t, s)
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			if len(b.Entities) > 10 {
				return ErrTooMuch
			}
			return copyThings(ctx, tx, b)
		}
		c.mustPoll(t)
		c.bans(t, "^thing (1[1-9]|20), ")
		s.put(t, 11, 40)
		c.mustPoll(t)
		c.wantRejected(t, s, "banned", 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
	})
	t.Run("a rule that older rows do not meet", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.mustPoll(t)
		exec(t, c.pool, `create function note() returns trigger language plpgsql as 'begin if new.name !~ ''^code'' then raise exception ''a name begins with code''; end if; return new; end';
			create trigger note after insert on thing for each row execute function note()`)
		s.put(t, 1, 2)
		s.rename(t, 6, "bad")
		s.put(t, 3, 5)
		c.mustPoll(t)
		c.wantRejected(t, s, "begins with code", 6)
	})
	t.Run("names that are swapped, under a deferrable constraint", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		exec(t, c.pool, uniqueNames+` deferrable initially deferred`)
		s.rename(t, 1, "a", 2, "b", 3, "c")
		c.mustPoll(t)
		s.rename(t, 1, "tmp", 2, "a", 1, "b", 4, "d")
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})
}

// What a broken check has refused arrives when that is mended, also where entries come one by one.
func TestBrokenCheckAfterTheStart(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many polls")
	for name, check := range map[string]func(feed.Entry) error{
		"refuses": func(feed.Entry) error { return errors.New("must have a member that this release wants") },
		"panics":  func(feed.Entry) error { panic("at an entry") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 5)
			c := newCopier(t, s)
			c.mustPoll(t)
			c = c.restarted(t, s, 10)
			c.Check = check
			for n := range 3 {
				s.put(t, n+1, n+1)
				c.mustPoll(t)
			}
			s.put(t, 4, 6)
			if err := c.poll(t.Context()); !errors.As(err, new(*refusedError)) {
				t.Errorf("a page of several: %v", err)
			}
			c = c.restarted(t, s, 10) // mended
			c.mustPoll(t)
			c.triesAgain(t)
			c.wantRejected(t, s, "")
			c.wantUpToDate(t, s)
		})
	}
}

// The version after the greatest one that there is does not become negative.
func TestMalformedAfterTheGreatestVersion(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 2)
	c := newCopier(t, s)
	c.mustPoll(t)
	exec(t, c.pool, `update thing set version = 9223372036854775807 where id = $1`, numbered(1))
	s.breaks(`"version":2,"entity`, `"version":"x","entity`, 3)
	s.put(t, 1, 2)
	c.mustPoll(t)
	var version int64
	if err := c.pool.QueryRow(t.Context(), `select version from rejected_entry`).Scan(&version); err != nil || version != math.MaxInt64 {
		t.Errorf("version %d, %v", version, err)
	}
}

// A good version that was put aside by the service's fault arrives when that is mended, though the source has published
// a bad one since: the copy ends as one that begins then.
func TestGoodVersionUnderABadOne(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, later := range map[string]func(t *testing.T, c *copier){
		"tried again":               func(t *testing.T, c *copier) { c.triesAgain(t) },
		"retried by a person":       func(t *testing.T, c *copier) { _, _, _ = c.quarantine.retry(t.Context(), numbered(6)) },
		"after a resync that fails": func(t *testing.T, c *copier) { c.triesAgain(t) },
		"by a resync":               func(t *testing.T, c *copier) { c.resync(t); c.mustPoll(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 5)
			c := newCopier(t, s)
			c.Check = func(e feed.Entry) error {
				if strings.Contains(string(e.Entity), `"bad`) {
					return errors.New("name is no name")
				}
				return nil
			}
			c.mustPoll(t)
			c.bans(t, "^thing 6, ")
			s.put(t, 6, 7)
			c.mustPoll(t)
			s.rename(t, 6, "bad", 8, "good", 6, "bad again")
			c.mustPoll(t)
			if strings.Contains(name, "resync that fails") {
				c.resync(t)
				c.mustPoll(t)
			}
			if at := c.stored(t); at.rejected != 2 {
				t.Errorf("%d are rejected", at.rejected)
			}
			exec(t, c.pool, `alter table thing drop constraint banned`)
			later(t, c)
			if at, v := c.stored(t), c.things(t)[numbered(6)]; at.rejected != 1 || v.Version != 1 {
				t.Errorf("%d are rejected, the copy has %+v", at.rejected, v)
			}
			fresh := newCopier(t, s)
			fresh.Check = c.Check
			fresh.mustPoll(t)
			if got, want := c.things(t), fresh.things(t); !maps.Equal(got, want) {
				t.Errorf("the copy has %v, a new one %v", got, want)
			}
			s.rename(t, 6, "mended")
			c.mustPoll(t)
			c.wantRejected(t, s, "")
		})
	}
}

// After an upgrade of the service's Check, a rejected version stays one entry, and what is refused again is not logged as
// applied.
func TestRejectedBeforeAnUpgrade(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	check := func(e feed.Entry) error {
		if strings.Contains(string(e.Entity), `"bad"`) {
			return errors.New("name is no name")
		}
		return nil
	}
	for name, checks := range map[string][2]func(feed.Entry) error{"narrower": {nil, check}, "wider": {check, nil}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := newCopier(t, s)
			c.Check = checks[0]
			s.put(t, 1, 3)
			c.mustPoll(t)
			c.bans(t, "^bad$")
			s.rename(t, 1, "bad", 5, "good")
			c.mustPoll(t)
			c = c.restarted(t, s, 10)
			c.Check = checks[1]
			var log bytes.Buffer
			c.logger = slog.New(slog.NewTextHandler(&log, nil))
			c.mustPoll(t)
			for range 3 {
				c.triesAgain(t)
			}
			if at := c.stored(t); at.rejected != 1 || strings.Contains(log.String(), "were applied") {
				t.Errorf("%d are rejected: %s", at.rejected, &log)
			}
		})
	}
}

// Trouble of the database while entries are tried again does not keep them apart from each other afterwards.
func TestRetriesAfterTrouble(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for _, code := range []string{"53100", "08006"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 1)
			c := s.copier(t, newCopier(t, s).pool, 100)
			t.Cleanup(c.fetcher.client.Close)
			c.mustPoll(t)
			exec(t, c.pool, `create table fault (code text); insert into fault values ('P0001');
				create function fails() returns trigger language plpgsql as $$ declare code text := (select f.code from fault f);
				begin if code <> '' and new.name <> 'good' then raise exception 'faulty' using errcode = code; end if; return new; end $$;
				create trigger fails before insert on thing for each row execute function fails()`)
			s.put(t, 2, 41)
			s.rename(t, 100, "good")
			c.mustPoll(t)
			if at := c.stored(t); at.rejected != 40 {
				t.Fatalf("%d are rejected", at.rejected)
			}
			round := func() {
				c.quarantine.retries.at = time.Now()
				_ = c.quarantine.retryDue(t.Context(), mayGoOn)
			}
			exec(t, c.pool, `update fault set code = $1`, code)
			round()
			round()
			exec(t, c.pool, `update fault set code = ''`)
			round()
			round()
			c.wantRejected(t, s, "")
		})
	}
}
