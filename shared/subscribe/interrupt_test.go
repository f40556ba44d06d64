package subscribe

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

func TestBreakingOff(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")

	t.Run("between two pages: the next run goes on at the cursor", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c := newCopier(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		apply := c.Apply
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			if len(c.applied) == 1 {
				cancel()
			}
			return apply(ctx, tx, b)
		}
		if err := c.poll(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if at := c.stored(t); at.cursor.Position != 20 || at.headPosition != 30 || len(c.things(t)) != 20 || !at.asOf.IsZero() || !at.lastSuccess.IsZero() {
			t.Fatalf("progress %+v with %d things: the page that was being applied counts, and no success", at, len(c.things(t)))
		}
		s.exchanges()
		c = s.copier(t, c.pool, 10)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if !slices.Equal(c.applied, []int{10, 5}) {
			t.Errorf("batches of %v after the restart", c.applied)
		}
	})

	t.Run("while a page is applied: that page is finished", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 15)
		c := newCopier(t, s)
		applying, goOn := make(chan struct{}), make(chan struct{})
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			close(applying)
			<-goOn
			return copyThings(ctx, tx, b)
		}
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			c.run(ctx)
		}()
		<-applying
		stop()
		close(goOn)
		<-stopped
		if at := c.stored(t); at.cursor.Position != 10 || at.headPosition != 15 || len(c.things(t)) != 10 {
			t.Errorf("progress %+v with %d things", at, len(c.things(t)))
		}
		if c.status(time.Now()).LastError != nil {
			t.Errorf("the stop counts as an error: %v", c.state.last.err)
		}
	})

	// Each of these undoes the page's rows and its cursor; then the same page goes well.
	for name, fail := range map[string]func(ctx context.Context, tx pgx.Tx) error{
		"a page that cannot be applied": func(context.Context, pgx.Tx) error { return errors.New("no room") },
		"a statement that fails": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select 1 from nowhere`)
			return err
		},
		"a connection that is lost": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`)
			return err
		},
		"a commit that fails": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				create table late (n int);
				create function refuse() returns trigger language plpgsql as 'begin raise exception ''not now''; end';
				create constraint trigger refuse after insert on late deferrable initially deferred for each row execute function refuse();
				insert into late values (1)`)
			return err
		},
		"a connection that is lost in the commit": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				create table late (n int);
				create function die() returns trigger language plpgsql as 'begin perform pg_terminate_backend(pg_backend_pid()); return null; end';
				create constraint trigger die after insert on late deferrable initially deferred for each row execute function die();
				insert into late values (1)`)
			return err
		},
	} {
		t.Run(name+": neither its rows nor its cursor", func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 25)
			c := newCopier(t, s)
			apply := c.Apply
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error { // of the second page, whatever part of it
				err := apply(ctx, tx, b)
				if len(c.applied) >= 2 && err == nil {
					return fail(ctx, tx)
				}
				return err
			}
			err := c.poll(t.Context())
			if err == nil {
				t.Fatal("it did not fail")
			}
			c.Apply, c.applied = apply, nil
			if shown := c.status(time.Now()); shown.Cursor.Position != 10 || shown.AsOf != nil {
				t.Errorf("it says that the cursor is %s, as of %v", shown.Cursor, shown.AsOf)
			}
			if at := c.stored(t); at.cursor.Position != 10 || len(c.things(t)) != 10 || !at.lastSuccess.IsZero() {
				t.Errorf("progress %+v with %d things", at, len(c.things(t)))
			}
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			// It goes on with a smaller page, unless all of the page was refused, and in parts if the session ended. (The
			// source's pages end at multiples of their size.)
			want := []int{5, 5, 5}
			if errors.As(err, new(*refusedError)) {
				want = []int{10, 5}
			} else if errors.As(err, new(*sessionError)) {
				want = []int{3, 2, 3, 2, 5}
			}
			if !slices.Equal(c.applied, want) {
				t.Errorf("%v, then batches of %v", err, c.applied)
			}
		})
	}
}

func TestTwoProcesses(t *testing.T) {
	t.Parallel()

	t.Run("the one whose cursor was moved applies nothing", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		mine := newCopier(t, s)
		other := s.copier(t, mine.pool, 10)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			s.setTamper(nil)
			other.mustPoll(t) // between my request and its answer
			honest.ServeHTTP(w, r)
		})
		if err := mine.poll(t.Context()); !errors.Is(err, errFenced) {
			t.Fatal(err)
		}
		if mine.applied != nil {
			t.Errorf("applied %v", mine.applied)
		}
		s.put(t, 6, 8)
		mine.mustPoll(t)
		mine.wantUpToDate(t, s)
		if !slices.Equal(mine.applied, []int{3}) {
			t.Errorf("applied %v", mine.applied)
		}
	})

	t.Run("both at once copy everything once", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 200)
		one := newCopier(t, s)
		two := s.copier(t, one.pool, 10)
		var fenced atomic.Int64
		finished := make(chan error, 2)
		for _, c := range []*copier{one, two} {
			go func() {
				err := c.poll(context.Background())
				for errors.Is(err, errFenced) {
					fenced.Add(1)
					err = c.poll(context.Background())
				}
				finished <- err
			}()
		}
		for range 2 {
			if err := <-finished; err != nil {
				t.Error(err)
			}
		}
		one.wantUpToDate(t, s)
		if pages := len(one.applied) + len(two.applied); pages != 20 {
			t.Errorf("20 pages were applied %d times, with %d lost races", pages, fenced.Load())
		}
	})
}

// Whatever happens between and in the polls, the copy is what the source had at the cursor, and in the end what it has.
func TestCopyProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	s := newSource(t)
	pool := newCopier(t, s).pool
	rapid.Check(t, func(rt *rapid.T) {
		s.begin(rt)
		exec(rt, pool, `truncate thing, subscription cascade`)
		var columns []string
		most := 10 // things on a page, or published at once
		if rapid.Bool().Draw(rt, "columns") {
			columns, most = []string{"name"}, 2*copyFrom
		}
		c, pure := s.copier(rt, pool, most/2, columns...), columns != nil || rapid.Bool().Draw(rt, "pure")
		c.pure = pure
		defer func() { c.fetcher.client.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				from := rapid.IntRange(1, most).Draw(t, "from")
				s.put(t, from, from+rapid.IntRange(0, most).Draw(t, "more"))
			},
			"remove": func(t *rapid.T) {
				if n := rapid.IntRange(1, 20).Draw(t, "n"); s.versions[numbered(n)] > 0 {
					s.remove(t, n)
				}
			},
			"poll": func(t *rapid.T) { c.mustPoll(t) },
			"restart": func(t *rapid.T) {
				c.fetcher.client.Close()
				c = s.copier(t, pool, rapid.IntRange(1, most).Draw(t, "page size"), columns...)
				c.pure = pure
			},
			"poll that the source breaks off": func(t *rapid.T) {
				pages, bytes := rapid.IntRange(0, 3).Draw(t, "pages"), rapid.IntRange(0, 2000).Draw(t, "bytes")
				s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
					if pages--; pages >= 0 {
						honest.ServeHTTP(w, r)
					} else {
						resetAfter(bytes)(w, r, honest)
					}
				})
				_ = c.poll(context.Background())
				s.setTamper(nil)
			},
			"poll that the reader breaks off": func(t *rapid.T) {
				var pages atomic.Int64
				pages.Store(int64(rapid.IntRange(0, 3).Draw(t, "pages")))
				apply := c.Apply
				c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
					if err := apply(ctx, tx, b); err != nil || pages.Add(-1) < 0 {
						return errors.Join(err, errors.New("no room"))
					}
					return nil
				}
				_ = c.poll(context.Background())
				c.Apply = apply
			},
			"": func(t *rapid.T) { c.wantConsistent(t, s) },
		})
		c.mustPoll(rt)
		c.wantUpToDate(rt, s)
	})
}
