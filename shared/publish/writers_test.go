package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A writer counts up the member n of entities of its own in one of the ways there are.
type writer struct {
	name  string
	count func(ctx context.Context, key string, n int) error
}

var errRolledBack = errors.New("rolled back")

// inSQL counts by statements of SQL in a transaction, with its accidents: savepoints that are rolled back, old snapshots,
// rollbacks, and connections that end.
func inSQL(pool *pgxpool.Pool, sql string) func(ctx context.Context, key string, n int) error {
	return func(ctx context.Context, key string, n int) error {
		options, accident := pgx.TxOptions{}, rand.IntN(8)
		if accident%2 == 0 {
			options.IsoLevel = pgx.RepeatableRead
		}
		tx, err := pool.BeginTx(ctx, options)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		inner, err := tx.Begin(ctx)
		if err == nil {
			_, err = inner.Exec(ctx, sql, key, -n)
		}
		if err == nil {
			err = inner.Rollback(ctx)
		}
		if err == nil {
			_, err = tx.Exec(ctx, sql, key, n)
		}
		switch {
		case err != nil:
			return err
		case accident == 1:
			return errRolledBack
		case accident == 3:
			time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() {
				_, _ = pool.Exec(context.Background(), `select pg_terminate_backend($1)`, tx.Conn().PgConn().PID())
			})
		}
		return tx.Commit(ctx)
	}
}

// All ways to write to a feed, at once and with all their accidents, make one log without gaps. Of each entity it has
// what was committed, in the order of the commits, and nothing of what was rolled back.
func TestWritersOfAllKinds(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many writers")
	pool := database(t)
	exec(t, pool, `create table counted (key text primary key, n int not null);
		select feed_attach('things', 'counted', 'key', mode => 'staged')`)
	one, two := openSQL(t, pool), openLog(t, ownPool(t, pool))
	entry := func(key string, n int) Entry {
		return Entry{ID: feed.EntityID(feedName, key), Payload: fmt.Appendf(nil, `{"key":"%s","n":%d}`, key, n)}
	}
	writers := []writer{
		{"put", inSQL(pool, `select feed_put('things', $1::text, json_build_object('key', $1::text, 'n', $2::int))`)},
		{"staged", inSQL(pool, `insert into counted values ($1, $2) on conflict (key) do update set n = excluded.n`)},
		{"in a transaction", func(ctx context.Context, key string, n int) error {
			return two.InTx(ctx, func(tx *Tx) error {
				tx.Append(feedName, entry(key, n))
				return nil
			})
		}},
		{"in a group", func(ctx context.Context, key string, n int) error {
			c := NewChange()
			c.Append(feedName, entry(key, n))
			return one.Commit(ctx, c)
		}},
	}
	ctx, end := context.WithTimeout(context.Background(), 4*time.Second)
	defer end()
	var mu sync.Mutex
	acknowledged, refusals := map[string]int{}, map[string]int{}
	var all sync.WaitGroup
	for _, w := range writers {
		for i := range 2 {
			all.Go(func() {
				key := fmt.Sprint(w.name, i)
				for n := 1; ctx.Err() == nil; n++ {
					err := w.count(context.Background(), key, n)
					mu.Lock()
					if err == nil {
						acknowledged[key] = n
					} else {
						refusals[w.name]++
					}
					mu.Unlock()
					if isCode(err, "23505") {
						t.Errorf("%s: %v", key, err)
					}
				}
			})
		}
	}
	all.Wait()
	pool = ownPool(t, pool) // backends of the first one were ended
	await(t, "nothing is staged", func() bool {
		var left bool
		err := pool.QueryRow(t.Context(), `select exists (select from feed_staged)`).Scan(&left)
		return err == nil && !left
	})
	t.Logf("%d entries; refused %v", len(logged(t, pool)), refusals)
	rows, err := pool.Query(t.Context(), `
		select convert_from(payload, 'UTF8')::json ->> 'key', (convert_from(payload, 'UTF8')::json ->> 'n')::int from feed_entry order by position`)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]int{}
	var key string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&key, &n}, func() error {
		if n <= said[key] {
			t.Errorf("%s is %d after it was %d", key, n, said[key])
		}
		said[key] = n
		return nil
	})
	if err != nil || len(acknowledged) != 2*len(writers) {
		t.Fatal(acknowledged, err)
	}
	for key, n := range acknowledged {
		if said[key] < n {
			t.Errorf("%s is %d on the feed, %d was acknowledged", key, said[key], n)
		}
	}
	if refusals["put"] == 0 || refusals["staged"] == 0 {
		t.Error("no accident happened")
	}
}
