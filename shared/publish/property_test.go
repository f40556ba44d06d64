package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Whatever the interleaving of transactions that stay open, roll back, or commit in another order than they began, of
// group commits and of readers with any page size: each reader ends with exactly the committed set, in commit order,
// and what it saw on the way was always the beginning of that.
func TestReadersEndWithTheCommittedSet(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	pool := database(t)
	server := serve(t, openSQL(t, pool))
	one, two := openLog(t, pool), openLog(t, pool) // two processes
	ctx := context.Background()
	var history atomic.Int64

	rapid.Check(t, func(t *rapid.T) {
		// One feed for all runs: each run begins where the last one ended.
		begin := &poller{url: server.URL + "/feeds/" + feedName, limit: feed.MaxPageSize}
		begin.poll(t)
		readers := make([]*poller, rapid.IntRange(1, 3).Draw(t, "readers"))
		for i := range readers {
			readers[i] = &poller{url: begin.url, limit: rapid.SampledFrom([]int{1, 2, 7, 100, 1000}).Draw(t, "limit"), cursor: begin.cursor}
		}
		type open struct {
			id       uuid.UUID
			rollback bool
			decided  chan struct{}
			done     chan error
		}
		var opened []*open
		committed := map[uuid.UUID]int64{} // newest version
		var ids []uuid.UUID                // committed ones
		finish := func(i int, rollback bool) {
			tx := opened[i]
			opened = slices.Delete(opened, i, i+1)
			tx.rollback = rollback
			close(tx.decided)
			err := <-tx.done
			if rollback != (err != nil) {
				t.Fatalf("rollback %t ended with %v", rollback, err)
			}
			if !rollback {
				committed[tx.id], ids = 1, append(ids, tx.id)
			}
		}
		log := func() *Log { return rapid.SampledFrom([]*Log{one, two}).Draw(t, "log") }

		t.Repeat(map[string]func(*rapid.T){
			"open a transaction": func(t *rapid.T) {
				if len(opened) == 3 { // of the pool's connections
					t.Skip()
				}
				tx := &open{id: numbered(int(history.Add(1))), decided: make(chan struct{}), done: make(chan error, 1)}
				began, l := make(chan struct{}), log()
				opened = append(opened, tx)
				if rapid.Bool().Draw(t, "by SQL") {
					go func() { tx.done <- putInSQL(ctx, pool, tx.id, func() { close(began) }, tx.decided, &tx.rollback) }()
					<-began
					return
				}
				first := true
				go func() {
					tx.done <- l.InTx(ctx, func(inner *Tx) error {
						if _, err := inner.Exec(ctx, `insert into thing values ($1, 1)`, tx.id); err != nil {
							return err
						}
						inner.Append(feedName, thing(tx.id, 1))
						if first {
							first = false
							close(began)
						}
						<-tx.decided
						if tx.rollback {
							return errors.New("rolled back")
						}
						return nil
					})
				}()
				<-began
			},
			"commit one": func(t *rapid.T) {
				if len(opened) == 0 {
					t.Skip()
				}
				finish(rapid.IntRange(0, len(opened)-1).Draw(t, "which"), false)
			},
			"roll one back": func(t *rapid.T) {
				if len(opened) == 0 {
					t.Skip()
				}
				finish(rapid.IntRange(0, len(opened)-1).Draw(t, "which"), true)
			},
			"commit a group, one of it bad": func(t *rapid.T) {
				n := rapid.IntRange(1, 5).Draw(t, "size")
				group := make([]*Change, n+1)
				for i := range group {
					group[i] = put(thing(numbered(int(history.Add(1))), 1))
				}
				bad := rapid.IntRange(0, n).Draw(t, "bad")
				group[bad].Exec(`select feed_guard(false)`)
				log().commitGroup(context.Background(), slices.Clone(group), nil)
				for i, c := range group {
					if err := <-c.done; (err != nil) != (i == bad) {
						t.Fatalf("change %d of the group, bad one %d: %v", i, bad, err)
					}
					if i != bad {
						id := c.pending[feedName][0].ID
						committed[id], ids = 1, append(ids, id)
					}
				}
			},
			"change one again": func(t *rapid.T) { // a cancellation
				if len(ids) == 0 {
					t.Skip()
				}
				id := rapid.SampledFrom(ids).Draw(t, "id")
				next := thing(id, committed[id]+1)
				next.Updated = time.Time{} // later than what SQL has written
				if err := log().Commit(ctx, put(next)); err != nil {
					t.Fatal(err)
				}
				committed[id]++
			},
			"poll": func(t *rapid.T) {
				rapid.SampledFrom(readers).Draw(t, "reader").poll(t)
			},
		})
		for len(opened) > 0 {
			finish(0, len(opened)%2 == 0)
		}
		end := &poller{url: begin.url, limit: feed.MaxPageSize, cursor: begin.cursor}
		for deadline := time.Now().Add(time.Minute); len(end.seen) < versions(committed) && time.Now().Before(deadline); { // it hears of them
			end.poll(t)
		}
		newest := map[uuid.UUID]int64{}
		for i, r := range end.seen {
			if r.position != begin.cursor.Position+int64(i)+1 || r.version != newest[r.id]+1 {
				t.Fatalf("entry %d is %v: a gap, or a version out of order", i, r)
			}
			newest[r.id] = r.version
		}
		if fmt.Sprint(newest) != fmt.Sprint(committed) {
			t.Fatalf("on the feed is %v, committed was %v", newest, committed)
		}
		for _, r := range readers {
			if r.poll(t); !slices.Equal(r.seen, end.seen) {
				t.Fatalf("the reader with limit %d saw %v, on the feed is %v", r.limit, r.seen, end.seen)
			}
		}
	})
	logged(t, pool)
}

func versions(newest map[uuid.UUID]int64) (n int) {
	for _, v := range newest {
		n += int(v)
	}
	return n
}

// putInSQL publishes an entity by SQL, in a transaction that stays open until it is decided whether it is rolled back.
func putInSQL(ctx context.Context, pool *pgxpool.Pool, id uuid.UUID, began func(), decided chan struct{}, rollback *bool) error {
	tx, err := pool.Begin(ctx)
	if err == nil {
		err = Put(ctx, tx.Exec, feedName, id.String(), struct{}{})
	}
	began()
	<-decided
	if err == nil && *rollback {
		err = errors.Join(errRolledBack, tx.Rollback(ctx))
	} else if err == nil {
		err = tx.Commit(ctx)
	}
	return err
}
