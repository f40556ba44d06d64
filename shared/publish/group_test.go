package publish

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
)

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
		l.commitGroup(context.Background(), slices.Clone(group), nil)
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
			c.Append("nothing", thing(uuid.New(), 1))
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
		twin.Append(feedName, thing(uuid.New(), 1))
		go l.commitGroup(context.Background(), []*Change{one, twin}, nil)
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
		l.commitGroup(context.Background(), slices.Clone(group), nil)
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
		l.commitGroup(context.Background(), slices.Clone(group), nil)
		for i, c := range group {
			if err := <-c.done; isCode(err, "55P03") != (i == 1) || err != nil && i != 1 {
				t.Errorf("change %d: %v", i, err)
			}
		}
	})
	t.Run("after Close", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l, err := Open(t.Context(), pool, Options{})
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}
