package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A reader that takes `id > last` from a sequence loses A: its number is drawn before B's and appears after it.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	a, b := uuid.New(), uuid.New()
	opened, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		once := sync.OnceFunc(func() { close(opened); <-goOn })
		done <- l.InTx(context.Background(), func(tx *Tx) error {
			if _, err := tx.Exec(context.Background(), `insert into thing values ($1, 1)`, a); err != nil {
				return err
			}
			tx.Append(feedName, thing(a, 1))
			once()
			return nil
		})
	}()
	<-opened
	if err := l.Commit(t.Context(), put(thing(b, 1))); err != nil {
		t.Fatal(err)
	}
	reader := &poller{url: server.URL + "/feeds/" + feedName, limit: 100}
	reader.poll(t)
	if want := []row{{1, b, 1}}; !slices.Equal(reader.seen, want) {
		t.Fatalf("while A is open the reader has %v, want %v", reader.seen, want)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	reader.poll(t)
	if want := []row{{1, b, 1}, {2, a, 1}}; !slices.Equal(reader.seen, want) {
		t.Fatalf("after A's commit the reader has %v, want %v", reader.seen, want)
	}
}

// A poller reads a feed as every subscriber does.
type poller struct {
	url    string
	limit  int
	cursor feed.Cursor
	seen   []row
}

func (p *poller) poll(t interface{ Fatal(...any) }) {
	client := feedclient.New("")
	for {
		answer, err := client.Get(context.Background(), feedclient.Request{URL: p.url, After: p.cursor, Limit: p.limit})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range answer.Page.Entries {
			p.seen = append(p.seen, row{e.Position, e.ID, e.Version})
		}
		p.cursor = answer.Page.Cursor
		if answer.Page.UpToDate {
			return
		}
	}
}

// Several logs on one database stand for several processes.
func TestWritersShareAFeed(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many writers")
	pool := database(t)
	exec(t, pool, `select feed_create('others')`)
	const writers, each = 6, 40
	var all sync.WaitGroup
	failed := make(chan error, 2*writers*each)
	for w := range writers {
		l := openLog(t, pool)
		for kind := range 2 {
			all.Go(func() {
				for i := range each {
					e := thing(numbered(w*1000+kind*500+i), 1)
					var err error
					if kind == 0 {
						err = l.Commit(context.Background(), put(e))
					} else {
						err = l.InTx(context.Background(), func(tx *Tx) error {
							tx.Append(feedName, e)
							tx.Append("others", e)
							return nil
						})
					}
					if err != nil {
						failed <- fmt.Errorf("writer %d, entry %d: %w", w, i, err)
					}
				}
			})
		}
	}
	all.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	if n := len(logged(t, pool)); n != 2*writers*each {
		t.Errorf("the log has %d entries, want %d", n, 2*writers*each)
	}
	var others int64
	if err := pool.QueryRow(t.Context(), `select count(*) from feed_entry where feed = 'others'`).Scan(&others); err != nil || others != writers*each {
		t.Errorf("the second feed has %d entries, want %d (%v)", others, writers*each, err)
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	t.Run("a rollback leaves no gap", func(t *testing.T) {
		boom := errors.New("boom")
		err := l.InTx(t.Context(), func(tx *Tx) error {
			tx.Append(feedName, thing(uuid.New(), 1))
			return boom
		})
		if !errors.Is(err, boom) {
			t.Errorf("got %v, want fn's error", err)
		}
		if log := logged(t, pool); len(log) != 0 {
			t.Errorf("the log has %v", log)
		}
	})
	t.Run("a lost swap is tried again from the true head", func(t *testing.T) {
		stale := deaf(t, pool)
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
			t.Fatal(err)
		}
		runs := 0
		err := stale.InTx(t.Context(), func(tx *Tx) error {
			runs++
			tx.Append(feedName, thing(uuid.New(), 1))
			return nil
		})
		if err != nil || runs != 2 {
			t.Errorf("%d runs, %v; want 2 and no error", runs, err)
		}
		if n := len(logged(t, pool)); n != 2 {
			t.Errorf("the log has %d entries, want 2", n)
		}
	})
	t.Run("a statement that failed is not forgotten", func(t *testing.T) {
		before := len(logged(t, pool))
		for _, entries := range [][]Entry{nil, {thing(uuid.New(), 1)}} {
			err := l.InTx(t.Context(), func(tx *Tx) error {
				_, _ = tx.Exec(t.Context(), `insert into nowhere values (1)`)
				if entries != nil {
					tx.Append(feedName, entries...)
				}
				return nil
			})
			if err == nil {
				t.Error("no error")
			}
		}
		err := l.InTx(t.Context(), func(tx *Tx) error {
			tx.Append(feedName, thing(uuid.New(), 1))
			return tx.Rollback(t.Context())
		})
		if err == nil || len(logged(t, pool)) != before {
			t.Errorf("entries without their transaction: %v", err)
		}
	})
	t.Run("what a guard stops is ErrGuard", func(t *testing.T) {
		err := l.InTx(t.Context(), func(tx *Tx) error {
			_, err := tx.Exec(t.Context(), `select feed_guard(false)`)
			return err
		})
		if !errors.Is(err, ErrGuard) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("without entries it is a plain transaction", func(t *testing.T) {
		id := uuid.New()
		err := l.InTx(t.Context(), func(tx *Tx) error {
			_, err := tx.Exec(t.Context(), `insert into thing values ($1, 1)`, id)
			return err
		})
		var n int
		if scanErr := pool.QueryRow(t.Context(), `select count(*) from thing where id = $1`, id).Scan(&n); err != nil || scanErr != nil || n != 1 {
			t.Errorf("%d rows, %v, %v", n, err, scanErr)
		}
	})
}

// The head row is locked for the length of the packet that ends the transaction: a client that stalls
// between two statements holds nobody up.
func TestOpenTransactionHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := l.InTx(ctx, func(tx *Tx) error {
		tx.Append(feedName, thing(uuid.New(), 1))
		return openLog(t, pool).Commit(ctx, put(thing(uuid.New(), 1)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(logged(t, pool)); n < 2 {
		t.Errorf("the log has %d entries", n)
	}
}

func TestInTxNested(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	errBad := errors.New("bad")
	put := func(tx pgx.Tx, n int, err error) error {
		return pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
			tx.(*Tx).Append(feedName, thing(numbered(n), 1))
			_, execErr := tx.Exec(t.Context(), `insert into thing values ($1, 1)`, numbered(n))
			return errors.Join(execErr, err)
		})
	}
	err := l.InTx(t.Context(), func(tx *Tx) error {
		tx.Append(feedName, thing(numbered(1), 1))
		if err := put(tx, 2, nil); err != nil {
			return err
		}
		if err := put(tx, 3, errBad); !errors.Is(err, errBad) {
			t.Errorf("%v", err)
		}
		err := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error { // what it commits, the outer one undoes
			return errors.Join(put(tx, 4, nil), put(tx, 5, nil), errBad)
		})
		if !errors.Is(err, errBad) {
			t.Errorf("%v", err)
		}
		return put(tx, 6, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids []uuid.UUID
	for _, r := range logged(t, pool) {
		ids = append(ids, r.id)
	}
	if want := []uuid.UUID{numbered(1), numbered(2), numbered(6)}; !slices.Equal(ids, want) {
		t.Errorf("the log has %v, not %v", ids, want)
	}
	var rows int
	if err := pool.QueryRow(t.Context(), `select count(*) from thing`).Scan(&rows); err != nil || rows != 2 {
		t.Errorf("%d rows (%v)", rows, err)
	}
	err = l.InTx(t.Context(), func(tx *Tx) error {
		tx.Append(feedName, thing(numbered(7), 1))
		return tx.Commit(t.Context())
	})
	if err == nil || len(logged(t, pool)) != 3 {
		t.Errorf("a transaction that is ended by hand: %v", err)
	}
}
