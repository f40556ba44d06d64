package publish

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// says returns the entries of the log from a position on, as VERSION KEY-MEMBER or "deleted" or "erased".
func says(t testing.TB, pool *pgxpool.Pool, feedName string) (entries []string) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		select version || ' ' || coalesce(convert_from(payload, 'UTF8'), case when salt is null then 'erased' else 'deleted' end)
		  from feed_entry where feed = $1 order by position`, feedName)
	if err == nil {
		entries, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func wantSays(t testing.TB, pool *pgxpool.Pool, feedName string, want ...string) {
	t.Helper()
	if got := says(t, pool, feedName); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the feed says\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// read returns all entries of the log.
func read(t testing.TB, l *Log) []feed.Entry {
	t.Helper()
	heads, err := l.refresh(t.Context(), l.pool)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := l.Entries(t.Context(), feedName, 0, heads[feedName].Cursor(), heads[feedName].Erasures)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func refused(t testing.TB, pool *pgxpool.Pool, sql, code, message string) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql)
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.Code != code || !strings.Contains(pgErr.Message+" "+pgErr.Hint, message) {
		t.Errorf("%s: %v (%s); not %s %q", sql, err, hintOf(pgErr), code, message)
	}
}

func hintOf(err *pgconn.PgError) string {
	if err == nil {
		return ""
	}
	return err.Hint
}

func TestPutFromSQL(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	exec(t, pool, `select feed_put('things', 42, '{"n":1}')`)
	exec(t, pool, `select feed_put('things', '42', '{"n":1}')`) // says nothing new
	exec(t, pool, `select feed_put('things', '42', '{"n":2}'), feed_put('things', '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid, '{}')`)
	exec(t, pool, `select feed_delete('things', 42), feed_delete('things', 43)`)
	exec(t, pool, `select feed_put('things', 42, '{"n":3}')`)
	exec(t, pool, `select feed_erase('things', 42)`)
	wantSays(t, pool, feedName, "1 erased", "2 erased", "1 {}", "3 erased", "4 erased", "5 erased")
	logged(t, pool)
	fill(t, l, 3) // Go's writer goes on behind it
	logged(t, pool)
	if entries := read(t, l); len(entries) != 9 || !entries[0].Erased || entries[2].Erased {
		t.Errorf("a reader finds %v", entries)
	}

	refused(t, pool, `select feed_put('things', 42, '{}')`, "55000", "is erased")
	refused(t, pool, `select feed_put('nothing', 42, '{}')`, "42704", "select feed_create('nothing')")
	refused(t, pool, `select feed_put('things', 1.5, '{}')`, "42804", "Keys are uuid, bigint or text")
	refused(t, pool, `select feed_put('things', null, '{}')`, "22023", "names no entity")
	refused(t, pool, `select feed_put('things', '00000000-0000-0000-0000-000000000000', '{}')`, "22023", "names no entity")
	refused(t, pool, `select feed_put('things', 1, null)`, "22023", "not a JSON object")
	refused(t, pool, `select feed_put('things', 1, '[{}]')`, "22023", "not a JSON object")
	refused(t, pool, `select feed_put('things', 1, '{')`, "22P02", "")
	refused(t, pool, `select feed_put('things', 1, json_build_object('a', repeat('x', 262144)))`, "54000", "takes up to 262144")
	refused(t, pool, `select feed_put('things', 1, ('{"a":' || repeat('[', 500) || '"]{["' || repeat(']', 500) || '}')::json)`, "54000", "nested 501 deep")
	exec(t, pool, `select feed_put('things', 1, ('{"a":' || repeat('[', 499) || '"`+strings.Repeat(`{[`, 300)+`"' || repeat(']', 499) || '}')::json)`)
	refused(t, pool, `select feed_erase('things', 1), feed_put('things', 1, '{}')`, "55000", "erased by this transaction")
	exec(t, pool, `select feed_create('open', personal => false)`)
	refused(t, pool, `select feed_erase('open', 1)`, "55000", "not personal")
	logged(t, pool)
}

// The id of a key is the same as in the other languages: see PROTOCOL.md.
func TestIDsOfKeys(t *testing.T) {
	t.Parallel()
	pool := database(t)
	for key, want := range map[string]string{
		"42":                                   feed.EntityID("invoices", "42").String(),
		"ü":                                    feed.EntityID("invoices", "ü").String(),
		"6ba7b810-9dad-11d1-80b4-00c04fd430c8": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		"6BA7B810-9DAD-11D1-80B4-00C04FD430C8": feed.EntityID("invoices", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8").String(),
	} {
		var got string
		if err := pool.QueryRow(t.Context(), `select feed_uuid('invoices', $1)::text`, key).Scan(&got); err != nil || got != want {
			t.Errorf("the id of %s is %s, not %s (%v)", key, got, want, err)
		}
	}
	if id := feed.EntityID("invoices", "42"); id.String() != "8c187e56-b9c6-8f69-8ecb-5dbcb3781509" {
		t.Errorf("the id is %s", id)
	}
}
