package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// failsOn has Apply fail wherever the thing is in a batch.
func (c *copier) failsOn(n int, fail func(ctx context.Context, tx pgx.Tx) error) {
	apply := c.Apply
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		if b.has(n) {
			return fail(ctx, tx)
		}
		return apply(ctx, tx, b)
	}
}

func raises(code string) func(ctx context.Context, tx pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `do $$ begin raise exception 'thing 3 of Ada' using errcode = '`+code+`'; end $$`)
		return err
	}
}

// fails returns the error that the server itself reports under the code.
func fails(code string) func(ctx context.Context, tx pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		err := raises(code)(ctx, tx)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
			pgErr.Routine, pgErr.Message = "", "not now"
		}
		return err
	}
}

// What fails alone is put aside, whatever the error; what is the database's fault rejects nothing.
func TestBlame(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	for name, x := range map[string]struct {
		fail func(ctx context.Context, tx pgx.Tx) error
		bad  int // after so many polls at least the entry is at fault; 0: it never is
	}{
		"54000":              {raises("54000"), 1},
		"54001":              {raises("54001"), 1},
		"0A000":              {raises("0A000"), 1},
		"XX000":              {raises("XX000"), 1},
		"P0001":              {raises("P0001"), 1},
		"08000 by a trigger": {raises("08000"), 1},
		"25006 by a trigger": {raises("25006"), 1},
		"53000 by a trigger": {raises("53000"), 1},
		"58030 by a trigger": {raises("58030"), 1},
		"XX001 by a trigger": {raises("XX001"), 1},
		"a name that is none": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select $1::text::regconfig`, `"Ada"`)
			return err
		}, 1},
		"57014":          {raises("57014"), maxDoubts},
		"an error of Go": {func(context.Context, pgx.Tx) error { return errors.New("thing 3 of Ada") }, 1},
		"a panic":        {func(context.Context, pgx.Tx) error { panic("thing 3 of Ada") }, 1},
		"a bug":          {func(context.Context, pgx.Tx) error { return []error{}[len("thing 3 of Ada")] }, 1},
		"a real time-out": {func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `set local statement_timeout = 1`); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `select pg_sleep(1)`)
			return err
		}, maxDoubts},
		"a failed transaction": {func(ctx context.Context, tx pgx.Tx) error {
			_, _ = tx.Exec(ctx, `select 1/0`)
			return nil
		}, 1},
		"a disk that is full": {fails("53100"), 0},
		"temp_file_limit":     {fails("53400"), maxDoubts},
		"memory":              {fails("53200"), 0},
		"read-only": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `set transaction read only; delete from thing`)
			return err
		}, 0},
		"a deadlock":               {raises("40P01"), maxDoubts},
		"a serialization failure":  {raises("40001"), maxDoubts},
		"a lock that is not to be": {raises("55P03"), maxDoubts},
		"an I/O error":             {fails("58030"), 0},
		"damaged data":             {fails("XX001"), 0},
		"a connection that is lost": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`)
			return err
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 9)
			c := newCopier(t, s)
			var log strings.Builder
			c.logger = slog.New(slog.NewTextHandler(&log, nil))
			apply := c.Apply
			c.failsOn(3, x.fail)
			if x.bad > 1 {
				c.impatient()
			}
			err := c.poll(t.Context())
			deadline := time.Now().Add(time.Minute)
			for n := 1; x.bad > 1 && (n < x.bad || err != nil); n++ {
				if at := c.stored(t); err == nil || at.rejected > 0 || time.Now().After(deadline) {
					t.Fatalf("after %d polls %d are rejected: %v", n, at.rejected, err)
				}
				c.state.after(err, time.Now())
				err = c.poll(t.Context())
			}
			c.state.after(err, time.Now())
			if strings.Contains(log.String()+fmt.Sprint(err), "Ada") {
				t.Errorf("it quotes the entry: %v\n%s", err, &log)
			}
			if x.bad > 0 {
				if err != nil {
					t.Fatal(err)
				}
				c.wantRejected(t, s, "", 3)
				return
			}
			if at := c.stored(t); err == nil || at.rejected > 0 || at.cursor.Position > 0 {
				t.Errorf("%d are rejected at %s: %v", at.rejected, at.cursor, err)
			}
			c.Apply = apply
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		})
	}
}

// An entry that is alone on its page is at fault if the copy takes again what it has taken before.
func TestBlameOfOne(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	fails := errors.New("no such model")
	for name, x := range map[string]struct {
		before bool // something was applied
		fail   func(b *Batch) bool
		bad    bool
	}{
		"it alone":                      {true, func(b *Batch) bool { return b.has(5) }, true},
		"everything":                    {true, func(*Batch) bool { return true }, false},
		"nobody knows":                  {false, func(b *Batch) bool { return b.has(5) }, false},
		"everything, from the start on": {false, func(*Batch) bool { return true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := newCopier(t, s)
			if x.before {
				s.put(t, 1, 2)
				c.mustPoll(t)
			}
			apply := c.Apply
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				if x.fail(b) {
					return fails
				}
				return apply(ctx, tx, b)
			}
			s.put(t, 5, 5)
			err := c.poll(t.Context())
			if x.bad {
				if err != nil {
					t.Fatal(err)
				}
				c.wantRejected(t, s, "no such model", 5)
				return
			}
			if !errors.Is(err, fails) || c.stored(t).rejected > 0 {
				t.Errorf("%d are rejected: %v", c.stored(t).rejected, err)
			}
			if !x.fail(NewBatch(nil)) { // with neighbours it shows
				s.put(t, 6, 7)
				c.mustPoll(t)
				c.wantRejected(t, s, "no such model", 5)
			}
		})
	}
}

// Entries in the end of a feed that Apply refuses, and no others, are at fault if the copy takes again what it has
// taken before.
func TestBlameOfTheLast(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, x := range map[string]struct {
		restart bool
		columns []string
		bad     []int // things that Apply refuses; nil means all
	}{
		"two":                                {bad: []int{25, 26}},
		"more than a page":                   {bad: []int{14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26}},
		"two, after a restart":               {restart: true, bad: []int{25, 26}},
		"two of a pure copy":                 {columns: []string{"name"}, bad: []int{25, 26}},
		"two of a pure copy, after restart":  {restart: true, columns: []string{"name"}, bad: []int{25, 26}},
		"everything":                         {},
		"everything, after a restart":        {restart: true},
		"everything of a pure copy, restart": {restart: true, columns: []string{"name"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			first := 24
			if x.bad != nil {
				first = x.bad[0] - 1
			}
			s.put(t, 1, first)
			c := s.copier(t, newCopier(t, s).pool, 10, x.columns...)
			t.Cleanup(c.fetcher.client.Close)
			c.mustPoll(t)
			exec(t, c.pool, `
				create function refuse() returns trigger language plpgsql as 'begin raise exception ''no such model''; end';
				create trigger refuse before insert or update on thing for each row
					when (new.name ~ '`+fmt.Sprintf("^thing (%s), ", strings.Trim(strings.ReplaceAll(fmt.Sprint(x.bad), " ", "|"), "[]"))+`' or `+fmt.Sprint(x.bad == nil)+`) execute function refuse()`)
			s.put(t, first+1, 26)
			if x.restart {
				c = s.copier(t, c.pool, 10, x.columns...)
				t.Cleanup(c.fetcher.client.Close)
			}
			err := c.poll(t.Context())
			for n := 0; err != nil && n < 3; n++ {
				err = c.poll(t.Context())
			}
			if x.bad != nil {
				if err != nil {
					t.Fatal(err)
				}
				c.wantRejected(t, s, "no such model", x.bad...)
				return
			}
			if _, refused := errors.AsType[*refusedError](err); !refused || c.stored(t).rejected > 0 {
				t.Errorf("%d are rejected: %v", c.stored(t).rejected, err)
			}
			exec(t, c.pool, `drop trigger refuse on thing`)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		})
	}
}

// random returns text that PostgreSQL cannot compress.
func random(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('!' + rand.IntN(90))
	}
	return string(b)
}

// Every second of a thousand is bad, or one has a text that no index takes, or a statement may not take long: the
// good ones arrive.
func TestBlameOnLargePages(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large pages")
	for name, columns := range map[string][]string{"by Apply": nil, "a pure copy": {"name"}} {
		t.Run("every second, "+name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 1000)
			c := s.copier(t, newCopier(t, s).pool, 1000, columns...)
			t.Cleanup(c.fetcher.client.Close)
			exec(t, c.pool, `alter table thing add check (substring(name, '^thing ([0-9]+),')::int % 2 = 0)`)
			c.mustPoll(t)
			if n, bad := count(t, c.pool, `select count(*) from thing`), count(t, c.pool, `select count(*) from rejected_entry`); n != 500 || bad != 500 {
				t.Errorf("%d are applied, %d rejected", n, bad)
			}
		})
		t.Run("too long for an index, "+name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 2)
			e := s.version(3)
			var err error
			if e.Payload, err = json.Marshal(thing{e.ID, e.Version, random(3200)}); err != nil {
				t.Fatal(err)
			}
			s.publish(t, e)
			s.put(t, 4, 35)
			c := s.copier(t, newCopier(t, s).pool, 30, columns...)
			t.Cleanup(c.fetcher.client.Close)
			exec(t, c.pool, `create index on thing (name)`)
			c.mustPoll(t)
			c.wantRejected(t, s, "SQLSTATE 54000", 3)
		})
	}

	t.Run("more steps than there is time for on one page", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 100)
		c := s.copier(t, newCopier(t, s).pool, 1000)
		t.Cleanup(c.fetcher.client.Close)
		exec(t, c.pool, `alter table thing add check (substring(name, '^thing ([0-9]+),')::int % 2 = 0)`)
		c.timeout = 900 * time.Millisecond // three of them for all steps
		apply := c.Apply
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			_, err := tx.Exec(ctx, `select pg_sleep(0.02)`)
			return errors.Join(err, apply(ctx, tx, b))
		}
		failures := 0
		for c.poll(t.Context()) != nil && failures < 50 {
			failures++
		}
		n, bad := count(t, c.pool, `select count(*) from thing`), count(t, c.pool, `select count(*) from rejected_entry`)
		if n != 50 || bad != 50 || failures == 0 || failures == 50 {
			t.Errorf("%d are applied, %d rejected, %d polls failed", n, bad, failures)
		}
	})

	t.Run("a small statement_timeout", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 40)
		c := s.copier(t, newCopier(t, s).pool, 100)
		t.Cleanup(c.fetcher.client.Close)
		config := c.pool.Config()
		config.ConnConfig.RuntimeParams["statement_timeout"] = "2000"
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		c.pool = pool
		apply := c.Apply
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			_, err := tx.Exec(ctx, `select pg_sleep($1)`, 0.06*float64(len(b.Entities)))
			return errors.Join(err, apply(ctx, tx, b))
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantRejected(t, s, "")
	})
}

// More bad entries one after the other than any page holds hold up those behind them no more than fewer do.
func TestBlameOfTheLargestPage(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large pages")
	for name, x := range map[string]struct {
		columns []string
		restart bool
	}{
		"by Apply": {}, "by Apply, after a restart": {restart: true}, "a pure copy": {columns: []string{"name"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 2)
			c := s.copier(t, newCopier(t, s).pool, 500, x.columns...)
			t.Cleanup(c.fetcher.client.Close)
			c.mustPoll(t)
			exec(t, c.pool, `alter table thing add constraint banned check (substring(name, '^thing ([0-9]+),')::int not between 1001 and 2100)`)
			s.put(t, 1001, 2100)
			s.put(t, 3, 4)
			if x.restart {
				c = s.copier(t, c.pool, 500, x.columns...)
				t.Cleanup(c.fetcher.client.Close)
			}
			err := c.poll(t.Context())
			for n := 0; err != nil && n < 3; n++ {
				err = c.poll(t.Context())
			}
			if n, bad := count(t, c.pool, `select count(*) from thing`), count(t, c.pool, `select count(*) from rejected_entry`); n != 4 || bad != 1100 || err != nil {
				t.Errorf("%d are applied, %d rejected: %v", n, bad, err)
			}
		})
	}
	t.Run("nothing passes", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 2)
		c := s.copier(t, newCopier(t, s).pool, 1000)
		t.Cleanup(c.fetcher.client.Close)
		c.mustPoll(t)
		exec(t, c.pool, `alter table thing rename name to title`)
		s.put(t, 3, 1100)
		for range 2 {
			if err := c.poll(t.Context()); err == nil {
				t.Error("it went on")
			}
		}
		exec(t, c.pool, `alter table thing rename title to name`)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantRejected(t, s, "")
	})
}

// Where a whole page is refused, a larger one shows whether it is the entries' fault.
func TestBlameOfAWholePage(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 40)
	c := newCopier(t, s)
	c.bans(t, "^thing (1[1-9]|20), ")
	err := c.poll(t.Context())
	for n := 0; err != nil && n < 5; n++ {
		if _, refused := errors.AsType[*refusedError](err); !refused {
			t.Fatal(err)
		}
		err = c.poll(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	c.wantRejected(t, s, "banned", 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
	s.exchanges()
	s.put(t, 50, 51)
	c.mustPoll(t)
	if asked := s.exchanges(); !strings.HasSuffix(asked[0].query, "&limit=10") {
		t.Errorf("it goes on with %v", asked)
	}
}

// What the feed's check refuses never reaches Apply. A check that passes nothing is at fault itself.
func TestCheck(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	bad := func(names string) func(feed.Entry) error {
		matches := regexp.MustCompile(`"name":"thing (` + names + `), `)
		return func(e feed.Entry) error {
			if !e.Deleted && matches.Match(e.Entity) {
				return errors.New("name is no name")
			}
			return nil
		}
	}
	for name, x := range map[string]struct {
		names    string
		rejected []int
		says     string // the error; "" means none
	}{
		"some of a page":        {"3|7", []int{3, 7}, ""},
		"the first page":        {"[1-9]|10", []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, ""},
		"a page in the middle":  {"1[1-9]|20", []int{11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, ""},
		"the last one":          {"25", []int{25}, ""},
		"everything":            {"[0-9]+", nil, "every one of the 10 entries was refused, the first: name is no name"},
		"all but the first one": {"[2-9]|1.|2.", []int{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 25)
			c := newCopier(t, s)
			c.Check = bad(x.names)
			apply := c.Apply
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				if i := slices.IndexFunc(b.Entities, func(e feed.Entry) bool { return c.Check(e) != nil }); i >= 0 {
					t.Errorf("Apply sees %s", b.Entities[i].Entity)
				}
				return apply(ctx, tx, b)
			}
			err := c.poll(t.Context())
			if x.says != "" {
				if err == nil || !strings.Contains(err.Error(), x.says) || c.stored(t).rejected > 0 {
					t.Errorf("%d are rejected: %v", c.stored(t).rejected, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.wantRejected(t, s, "name is no name", x.rejected...)
			again := s.copier(t, c.pool, 10) // as after a restart
			again.Check = bad(".*6|.*7")
			s.put(t, 26, 27)
			again.mustPoll(t) // the source's first entries show that the check passes some
			if n := count(t, c.pool, `select count(*) from rejected_entry where reason = 'name is no name'`); n != len(x.rejected)+2 {
				t.Errorf("%d are rejected", n)
			}
			again.Check = nil
			s.put(t, 1, 27)
			again.mustPoll(t)
			c.wantRejected(t, s, "")
			c.wantUpToDate(t, s)
		})
	}

	t.Run("when the feed is read again from its start", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.Check = bad("3|14")
		if err := c.resyncer.begin(t.Context(), "A test.", nil); err != nil {
			t.Fatal(err)
		}
		c.mustPoll(t)
		c.wantRejected(t, s, "name is no name", 3, 14)
		c.Check = func(feed.Entry) error { panic("of Ada") }
		if err := c.resyncer.begin(t.Context(), "A test.", nil); err != nil {
			t.Fatal(err)
		}
		if err := c.poll(t.Context()); err == nil || strings.Contains(err.Error(), "Ada") || len(c.things(t)) != 25 {
			t.Errorf("%v, with %d things", err, len(c.things(t)))
		}
	})
}
