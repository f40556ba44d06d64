package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A reader that takes `id > last` from a sequence loses A: its number is drawn before B's and appears after it.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, server := openLog(t, pool), serve(t, pool)
	a, b := uuid.New(), uuid.New()
	opened, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		once := sync.OnceFunc(func() { close(opened); <-goOn })
		done <- l.InTx(context.Background(), func(tx *Tx) error {
			if _, err := tx.Exec(context.Background(), `insert into thing values ($1, 1)`, a); err != nil {
				return err
			}
			Append(tx, feedName, thing(a, 1))
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
	client := feed.NewClient()
	for {
		answer, err := client.Get(context.Background(), p.url, p.cursor, p.limit, "")
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

func TestCommit(t *testing.T) {
	t.Parallel()
	t.Run("a change that fails takes no other of its group down", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := openLog(t, pool)
		var group []*Change
		for range 9 {
			group = append(group, put(thing(uuid.New(), 1)))
		}
		bad := put(thing(uuid.New(), 1000)) // against a check
		guarded := put(thing(uuid.New(), 1))
		guarded.Exec(`select feed_guard(false)`)
		unencodable := put(thing(uuid.New(), 1))
		unencodable.Exec(`select $1::int`, "not a number")
		unknownTable := put(thing(uuid.New(), 1))
		unknownTable.Exec(`insert into nowhere values (1)`)
		doubled := put(thing(group[0].pending[feedName][0].ID, 1)) // fails in the append, not in a statement of its own
		group = slices.Insert(group, 3, bad, guarded)
		group = slices.Insert(group, 8, unencodable, unknownTable)
		group = append(group, doubled)
		l.commitGroup(slices.Clone(group))
		for i, c := range group {
			err := <-c.done
			switch c {
			case bad, unknownTable, doubled:
				if _, ok := errors.AsType[*pgconn.PgError](err); !ok {
					t.Errorf("change %d: want an error of the database, got %v", i, err)
				}
			case guarded:
				if !errors.Is(err, ErrGuard) {
					t.Errorf("change %d: want ErrGuard, got %v", i, err)
				}
			case unencodable:
				if err == nil {
					t.Errorf("change %d: no error for an argument that cannot be encoded", i)
				}
			default:
				if err != nil {
					t.Errorf("change %d: %v", i, err)
				}
			}
		}
		if n := len(logged(t, pool)); n != 9 {
			t.Errorf("the log has %d entries, want the 9 that are good", n)
		}
		var things int
		if err := pool.QueryRow(t.Context(), `select count(*) from thing`).Scan(&things); err != nil || things != 9 {
			t.Errorf("%d rows stand beside the 9 entries (%v)", things, err)
		}
	})
	t.Run("a change that appends nothing is refused", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		if err := openLog(t, pool).Commit(t.Context(), NewChange()); err == nil {
			t.Error("no error")
		}
	})
	t.Run("an unknown feed is named, and one that was made since is found", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := openLog(t, pool)
		change := func() *Change {
			c := NewChange()
			Append(c, "nothing", thing(uuid.New(), 1))
			return c
		}
		if err := l.Commit(t.Context(), change()); err == nil || !strings.Contains(err.Error(), "nothing") {
			t.Errorf("got %v", err)
		}
		exec(t, pool, `select feed_create('nothing')`)
		if err := l.Commit(t.Context(), change()); err != nil {
			t.Error(err)
		}
	})
	t.Run("what no reader would understand is refused", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := openLog(t, pool)
		for _, payload := range []string{``, `oops`, `[]`, `"a"`, `{`, `null`} {
			e := thing(uuid.New(), 1)
			e.Payload = []byte(payload)
			if err := l.Commit(t.Context(), put(e)); err == nil {
				t.Errorf("%q is in the log", payload)
			}
		}
	})
	t.Run("who fails hears of it when the others of the group are there", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := openLog(t, pool)
		id := uuid.New()
		one, twin := put(thing(id, 1)), NewChange()
		twin.Exec(`insert into thing (id, version) values ($1, 1)`, id)
		Append(twin, feedName, thing(uuid.New(), 1))
		go l.commitGroup([]*Change{one, twin})
		if err := <-twin.done; err == nil {
			t.Fatal("no error")
		}
		var there int
		if err := pool.QueryRow(t.Context(), `select count(*) from thing where id = $1`, id).Scan(&there); err != nil || there != 1 {
			t.Errorf("%d rows, %v", there, err)
		}
	})
	t.Run("most of a group is bad", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := openLog(t, pool)
		var group []*Change
		for i := range 64 {
			c := put(thing(uuid.New(), 1))
			if i%4 != 0 {
				c.Exec(`select feed_guard(false)`)
			}
			group = append(group, c)
		}
		l.commitGroup(slices.Clone(group))
		for i, c := range group {
			if err := <-c.done; errors.Is(err, ErrGuard) != (i%4 != 0) {
				t.Errorf("change %d: %v", i, err)
			}
		}
		if n := len(logged(t, pool)); n != 16 {
			t.Errorf("the log has %d entries, want 16", n)
		}
	})
	t.Run("a row that somebody holds fails the change that needs it alone", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := openLog(t, pool)
		held := uuid.New()
		if err := l.Commit(t.Context(), put(thing(held, 1))); err != nil {
			t.Fatal(err)
		}
		holder, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = holder.Rollback(context.Background()) }()
		if _, err := holder.Exec(t.Context(), `select from thing where id = $1 for update`, held); err != nil {
			t.Fatal(err)
		}
		group := []*Change{put(thing(uuid.New(), 1)), put(thing(held, 2)), put(thing(uuid.New(), 1))}
		l.commitGroup(slices.Clone(group))
		for i, c := range group {
			if err := <-c.done; isCode(err, "55P03") != (i == 1) || err != nil && i != 1 {
				t.Errorf("change %d: %v", i, err)
			}
		}
	})
	t.Run("after Close", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l, err := Open(t.Context(), pool, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

// Several logs on one database stand for several processes.
func TestWritersShareAFeed(t *testing.T) {
	t.Parallel()
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
							Append(tx, feedName, e)
							Append(tx, "others", e)
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
			Append(tx, feedName, thing(uuid.New(), 1))
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
		stale := openLog(t, pool)
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
			t.Fatal(err)
		}
		runs := 0
		err := stale.InTx(t.Context(), func(tx *Tx) error {
			runs++
			Append(tx, feedName, thing(uuid.New(), 1))
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
					Append(tx, feedName, entries...)
				}
				return nil
			})
			if err == nil {
				t.Error("no error")
			}
		}
		err := l.InTx(t.Context(), func(tx *Tx) error {
			Append(tx, feedName, thing(uuid.New(), 1))
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
		Append(tx, feedName, thing(uuid.New(), 1))
		return openLog(t, pool).Commit(ctx, put(thing(uuid.New(), 1)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(logged(t, pool)); n < 2 {
		t.Errorf("the log has %d entries", n)
	}
}

func TestErasureKeepsCursors(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, server := openLog(t, pool), serve(t, pool)
	fill(t, l, 5)
	reader := &poller{url: server.URL + "/feeds/" + feedName, limit: 2}
	reader.poll(t)
	exec(t, pool, `update feed_entry set payload = null, salt = null where position = 3`)
	logged(t, pool)
	answer, err := feed.NewClient().Get(t.Context(), reader.url, feed.Cursor{}, 10, "")
	if err != nil {
		t.Fatal(err)
	}
	if answer.Page.Cursor != reader.cursor {
		t.Errorf("the cursor was %s and is %s after the erasure", reader.cursor, answer.Page.Cursor)
	}
	if e := answer.Page.Entries[2]; !e.Deleted || e.Entity != nil {
		t.Errorf("the erased entry is served as %+v", e)
	}
}
