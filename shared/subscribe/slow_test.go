package subscribe

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// impatient returns a page so little time that a test can wait for its end.
func (c *copier) impatient() { c.timeout = 3 * time.Second }

// pollUntil polls until a poll succeeds, as often as it may take to find an entry that fails for a reason that may
// pass.
func (c *copier) pollUntil(t *testing.T) (failed int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		err := c.poll(t.Context())
		c.state.after(err, time.Now())
		if err == nil {
			return failed
		}
		if failed++; time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// What takes for ever for one entry holds up no others; what takes for ever for all rejects none.
func TestEntryThatTakesForEver(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	inSQL := func(sql string) func(*testing.T, *copier) {
		return func(_ *testing.T, c *copier) {
			c.failsOn(3, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, sql)
				return err
			})
		}
	}
	trigger := func(sql string) func(*testing.T, *copier) {
		return func(t *testing.T, c *copier) {
			exec(t, c.pool, `create function hang() returns trigger language plpgsql as 'begin if new.name ~ ''^thing 3,'' then perform pg_sleep(600); end if; return new; end'; `+sql)
		}
	}
	for name, x := range map[string]struct {
		columns []string
		hang    func(*testing.T, *copier)
		says    string
	}{
		"until its context ends": {nil, func(_ *testing.T, c *copier) {
			c.failsOn(3, func(ctx context.Context, _ pgx.Tx) error {
				<-ctx.Done()
				return errors.New("thing 3 is in no mood")
			})
		}, "took longer than 500ms"},
		"in a statement": {nil, inSQL(`select pg_sleep(600)`), "took longer than 500ms"},
		"in many statements": {nil, func(_ *testing.T, c *copier) {
			c.failsOn(3, func(ctx context.Context, tx pgx.Tx) error {
				for {
					if _, err := tx.Exec(ctx, `select pg_sleep(0.05)`); err != nil {
						return err
					}
				}
			})
		}, "took longer than 500ms"},
		"in a lock that only it needs": {nil, func(t *testing.T, c *copier) {
			tx, err := c.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
			if _, err := tx.Exec(t.Context(), `select pg_advisory_xact_lock(3)`); err != nil {
				t.Fatal(err)
			}
			inSQL(`select pg_advisory_xact_lock(3)`)(t, c)
		}, "SQLSTATE 55P03"},
		"in a trigger, of a pure copy": {[]string{"name"}, trigger(`create trigger hang before insert or update on thing for each row execute function hang()`), "took longer than 500ms"},
		"at the commit":                {nil, trigger(`create constraint trigger hang after insert on thing deferrable initially deferred for each row execute function hang()`), "took longer than 500ms"},
	} {
		for _, end := range []int{3, 30} { // alone on its page, or among others
			if end == 3 && name != "until its context ends" {
				continue
			}
			t.Run(fmt.Sprint(name, ", up to ", end), func(t *testing.T) {
				t.Parallel()
				s := newSource(t)
				s.put(t, 1, 2)
				c := s.copier(t, newCopier(t, s).pool, 100, x.columns...)
				t.Cleanup(c.fetcher.client.Close)
				c.mustPoll(t)
				c.impatient()
				x.hang(t, c)
				s.put(t, 3, end)
				if failed := c.pollUntil(t); failed < maxDoubts-1 {
					t.Errorf("%d polls failed", failed)
				}
				c.wantRejected(t, s, x.says, 3)
				if len(c.quarantine.doubts) > 0 {
					t.Errorf("remembered: %v", c.quarantine.doubts)
				}
			})
		}
	}

	t.Run("when the feed is read again from its start", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 30)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.failsOn(3, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `set local statement_timeout = 1`)
			if err == nil {
				_, err = tx.Exec(ctx, `select pg_sleep(600)`)
			}
			return err
		})
		s.restored(t, 30)
		s.begin(t)
		s.put(t, 1, 29)
		c.impatient()
		if failed := c.pollUntil(t); failed < maxDoubts-1 {
			t.Errorf("%d polls failed", failed)
		}
		c.wantRejected(t, s, "SQLSTATE 57014", 3)
	})

	t.Run("all, for a while", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 2)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.impatient()
		s.put(t, 3, 6)
		tx, err := c.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		if _, err := tx.Exec(t.Context(), `lock table thing in share mode`); err != nil {
			t.Fatal(err)
		}
		for range maxDoubts + 1 {
			err := c.poll(t.Context())
			if err == nil {
				t.Fatal("it went on")
			}
			c.state.after(err, time.Now())
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantRejected(t, s, "")
	})

	t.Run("one, for a while", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 9)
		c := newCopier(t, s)
		apply, fails := c.Apply, true
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			if fails && b.has(3) {
				return raises("40001")(ctx, tx)
			}
			return apply(ctx, tx, b)
		}
		for range maxDoubts + 1 { // in less than the time of a page
			err := c.poll(t.Context())
			if err == nil {
				t.Fatal("it went on")
			}
			c.state.after(err, time.Now())
		}
		fails = false
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantRejected(t, s, "")
	})
}
