package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"
)

// The statements of a group run while the group before it is under way. It appends behind that one, or in its place.
func TestGroupsOverlap(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]bool{"the first is committed": false, "the first fails": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			l := openLog(t, pool)
			fill(t, l, 1)
			gate, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = gate.Rollback(context.Background()) }()
			if _, err := gate.Exec(t.Context(), `select pg_advisory_xact_lock(1)`); err != nil {
				t.Fatal(err)
			}
			locked := func(key int, granted bool) func() bool {
				return func() bool {
					var n int
					err := pool.QueryRow(t.Context(), `
						select count(*) from pg_locks l join pg_database d on d.oid = l.database
						 where d.datname = current_database() and locktype = 'advisory' and objid = $1 and granted = $2`, key, granted).Scan(&n)
					return err == nil && n > 0
				}
			}
			first, second := put(thing(uuid.New(), 1)), put(thing(uuid.New(), 1))
			first.Exec(`select pg_advisory_xact_lock_shared(1)`)
			first.Exec(`select feed_guard($1)`, !fails)
			second.Exec(`select pg_advisory_xact_lock(2)`)
			outcomes := [2]chan error{make(chan error, 1), make(chan error, 1)}
			go func() { outcomes[0] <- l.Commit(context.Background(), first) }()
			waitFor(t, "the first to be held up", locked(1, false))
			go func() { outcomes[1] <- l.Commit(context.Background(), second) }()
			waitFor(t, "the second to run beside it", locked(2, true))
			if len(outcomes[0])+len(outcomes[1]) > 0 {
				t.Error("one of them did not wait")
			}
			if err := gate.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-outcomes[0]; fails != errors.Is(err, ErrGuard) || !fails && err != nil {
				t.Errorf("the first: %v", err)
			}
			if err := <-outcomes[1]; err != nil {
				t.Errorf("the second: %v", err)
			}
			want := []uuid.UUID{second.pending[feedName][0].ID}
			if !fails {
				want = append([]uuid.UUID{first.pending[feedName][0].ID}, want...)
			}
			log := logged(t, pool)[1:]
			if len(log) != len(want) {
				t.Fatalf("the log has %d of them, want %d", len(log), len(want))
			}
			for i, r := range log {
				if r.id != want[i] {
					t.Errorf("entry %d is not that of the group whose turn it was", i)
				}
			}
		})
	}
}

// Whatever breaks while groups overlap, every good change is there once and no bad one is.
func TestGroupsOverlapWhileConnectionsBreak(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, cut := cuttable(t, pool, payloadMark)
	const writers, each = 24, 20
	var writing sync.WaitGroup
	failed := make(chan error, writers*each)
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				n := w*each + i
				change := put(thing(numbered(n), 1))
				bad := n%7 == 0
				if bad {
					change.Exec(`select feed_guard(false)`)
				}
				if n%40 == 1 {
					cut.way.Store(int32(n / 40 % ways))
				}
				if err := l.Commit(context.Background(), change); (err != nil) != bad || bad && !errors.Is(err, ErrGuard) {
					failed <- fmt.Errorf("change %d: %w", n, err)
				}
			}
		})
	}
	writing.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	seen := map[uuid.UUID]int{}
	for _, r := range logged(t, pool) {
		seen[r.id]++
	}
	for n := range writers * each {
		if want := min(n%7, 1); seen[numbered(n)] != want {
			t.Errorf("change %d is there %d times, want %d", n, seen[numbered(n)], want)
		}
	}
	if cut.cuts.Load() == 0 {
		t.Error("no connection was cut")
	}
}
