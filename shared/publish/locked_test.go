package publish

import (
	"context"
	"sync"
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Changes of rows that somebody has locked fail, and the others are committed, however many there are.
func TestLockedRowsInAGroup(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "locks")
	pool := database(t)
	exec(t, pool, `create table ledger (n int primary key, x int not null default 0)`)
	exec(t, pool, `insert into ledger select generate_series(1, 100)`)
	l := openLog(t, pool)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), `select from ledger where n <= 20 for update`); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for n := 1; n <= 100; n++ {
		all.Go(func() {
			c := put(thing(numbered(n), 1))
			c.Exec(`update ledger set x = 1 where n = $1`, n)
			if err := l.Commit(t.Context(), c); (err == nil) != (n > 20) || n <= 20 && !isCode(err, "55P03") {
				t.Errorf("change %d: %v", n, err)
			}
		})
	}
	all.Wait()
	if got := len(logged(t, pool)); got != 80 {
		t.Errorf("%d entries", got)
	}
}
