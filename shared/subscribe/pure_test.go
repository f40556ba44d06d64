package subscribe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// opened waits up to a minute for a channel to be closed.
func opened(c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-time.After(time.Minute):
		return errors.New("not within a minute")
	}
}

// count returns the number that a query gives.
func count(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (b *Batch) has(n int) bool {
	for _, e := range b.Entities {
		if e.ID == numbered(n) {
			return true
		}
	}
	return false
}

// What is fetched ahead is bounded: one page is applied, one is ready, one is in the hand of who fetches.
func TestFetchAheadIsBounded(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	for n := 1; n <= 300; n += 100 {
		s.put(t, n, n+99)
	}
	c := newCopier(t, s)
	apply, goOn := c.Apply, make(chan struct{})
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		return errors.Join(opened(goOn), apply(ctx, tx, b))
	}
	asked := func() (pages int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range s.asked {
			if strings.HasSuffix(e.query, "&limit=10") {
				pages++
			}
		}
		return pages
	}
	polled := make(chan error)
	go func() { polled <- c.poll(context.Background()) }()
	eventually(t, "pages are fetched ahead", func() bool { return asked() == 3 })
	other := newCopier(t, s)
	other.state.given.pageSize, other.state.tuned.pageSize = 7, 7
	other.mustPoll(t) // gets them all meanwhile
	if n := asked(); n != 3 {
		t.Errorf("%d pages were asked for while the first one is applied", n)
	}
	close(goOn)
	if err := <-polled; err != nil {
		t.Fatal(err)
	}
	c.wantUpToDate(t, s)
	other.wantUpToDate(t, s)
}

func TestPure(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	newPure := func(t *testing.T, s *source) *copier {
		c := newCopier(t, s)
		c.pure = true
		return c
	}

	t.Run("two pages are applied at once, and committed in order", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 45)
		c := newPure(t, s)
		entered, applied := make(chan struct{}), make(chan struct{})
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			switch {
			case b.has(1):
				if err := errors.Join(opened(entered), opened(applied)); err != nil {
					return err
				}
				var done int
				if err := c.pool.QueryRow(ctx, `select count(*) from thing`).Scan(&done); err != nil || done > 0 {
					return fmt.Errorf("the second page is there before the first (%d, %w)", done, err)
				}
			case b.has(11):
				close(entered)
				defer close(applied)
			}
			return copyThings(ctx, tx, b)
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})

	for conns, want := range map[int32]int{16: 3, 3: 2, 2: 1, 1: 1} {
		t.Run(fmt.Sprintf("%d connections do for %d at once", conns, want), func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 95)
			c := newPure(t, s)
			config := c.pool.Config()
			config.MaxConns = conns
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			c.pool = pool
			var mu sync.Mutex
			var under, most int
			all := make(chan struct{})
			complete := sync.OnceFunc(func() { close(all) })
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				mu.Lock()
				under++
				if most = max(most, under); most == want {
					complete()
				}
				mu.Unlock()
				defer func() { mu.Lock(); under--; mu.Unlock() }()
				err := opened(all)
				_, slept := tx.Exec(ctx, `select pg_sleep(0.01)`) // time for another to come
				return errors.Join(err, slept, copyThings(ctx, tx, b))
			}
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			if most != want {
				t.Errorf("%d at once", most)
			}
		})
	}

	t.Run("pages that share an entity are applied one after the other", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		for n := 1; n < 90; n += 9 { // so that each page's last is the next one's first
			s.put(t, n, n+9)
		}
		c := newPure(t, s)
		var under, most atomic.Int64
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			most.Store(max(most.Load(), under.Add(1)))
			defer under.Add(-1)
			_, err := tx.Exec(ctx, `select pg_sleep(0.01)`) // time for another to come
			return errors.Join(err, copyThings(ctx, tx, b))
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if most.Load() != 1 {
			t.Errorf("%d at once", most.Load())
		}
	})

	// What happens to the first page, while the second is applied and waits for it.
	kill := `select pg_terminate_backend(pg_backend_pid())`
	for name, x := range map[string]struct {
		first, second string // done in their transactions
		cursor        int64  // then
	}{
		"the first fails: the second is undone":            {`select 1/(select count(*) from nowhere)`, ``, 0},
		"the first's connection is lost: both are undone":  {kill, ``, 0},
		"the second's connection is lost: the first stays": {``, kill, 10},
		"the first's is lost in the commit: both are undone": {`
			create function die() returns trigger language plpgsql as 'begin perform pg_terminate_backend(pg_backend_pid()); return null; end';
			create table late (n int);
			create constraint trigger die after insert on late deferrable initially deferred for each row execute function die();
			insert into late values (1)`, ``, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 45)
			c := newPure(t, s)
			apply, entered, second := c.Apply, make(chan struct{}), make(chan struct{})
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				err := copyThings(ctx, tx, b)
				fault := ""
				switch {
				case slices.ContainsFunc([]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, b.has): // or a part of it
					err = errors.Join(err, opened(entered), opened(second))
					fault = x.first
				case b.has(11):
					close(entered)
					defer close(second)
					fault = x.second
				default:
					err = errors.Join(err, opened(second))
				}
				if err == nil && fault != "" {
					_, err = tx.Exec(ctx, fault)
				}
				return err
			}
			err := c.poll(t.Context())
			if err == nil {
				t.Fatal("nothing failed")
			}
			c.state.after(err, time.Now())
			if at := c.stored(t); at.cursor.Position != x.cursor || len(c.things(t)) != int(x.cursor) {
				t.Errorf("%v: the cursor is at %s with %d things, not at %d", err, at.cursor, len(c.things(t)), x.cursor)
			}
			c.Apply = apply
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			if rejected := count(t, c.pool, `select count(*) from rejected_entry`); rejected > 0 {
				t.Errorf("%d entries are rejected", rejected)
			}
		})
	}

	t.Run("pages that stand in each other's way are applied one by one after the first failure", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 45)
		c := newPure(t, s)
		c.state.after(errors.New("lock time-out"), time.Now())
		var under, most atomic.Int64
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			most.Store(max(most.Load(), under.Add(1)))
			defer under.Add(-1)
			_, err := tx.Exec(ctx, `select pg_sleep(0.01)`)
			return errors.Join(err, copyThings(ctx, tx, b))
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if most.Load() != 1 {
			t.Errorf("%d at once", most.Load())
		}
	})
}

// Whatever was copied already changes nothing when it comes again.
func TestVersionsNeverGoBack(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	rows := func(t *testing.T, c *copier) string { // with what tells that a row was written
		t.Helper()
		var text string
		if err := c.pool.QueryRow(t.Context(), `select string_agg(id || ' ' || version || ' ' || xmin || ' ' || ctid, ',' order by id) from thing`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, pure := range []bool{false, true} {
		t.Run(fmt.Sprintf("a cursor that was set back, pure %t", pure), func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 25)
			s.put(t, 3, 12)
			c := newCopier(t, s)
			c.pure = pure
			c.mustPoll(t)
			before := rows(t, c)
			exec(t, c.pool, `update subscription set cursor = '0'`)
			c.applied = nil
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			if rows(t, c) != before || c.applied != nil {
				t.Errorf("it wrote again what was there, in batches of %v", c.applied)
			}
		})
	}

	t.Run("a source that serves an old version at a new position", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		s.put(t, 3, 3)
		c := newCopier(t, s)
		c.mustPoll(t)
		before := rows(t, c)
		s.put(t, 3, 3)
		s.setTamper(replaced(`"version":3,`, `"version":1,`))
		c.mustPoll(t)
		if at := c.stored(t); at.cursor.Position != 7 || rows(t, c) != before {
			t.Errorf("at %s the copy has %v", at.cursor, c.things(t))
		}
		s.setTamper(nil)
		s.put(t, 3, 3)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})

	t.Run("a source that answers with the page before", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 20)
		c := newCopier(t, s)
		c.mustPoll(t)
		before := rows(t, c)
		s.put(t, 1, 5)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			r.URL.RawQuery = "after=0&limit=10"
			honest.ServeHTTP(w, r)
		})
		if err := c.poll(t.Context()); err == nil || !strings.Contains(err.Error(), "expected position 21, got 1") {
			t.Errorf("%v", err)
		}
		if rows(t, c) != before {
			t.Error("it wrote")
		}
		s.setTamper(nil)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})
}
