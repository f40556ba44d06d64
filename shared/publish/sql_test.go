package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
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
	entries, _, err := l.Entries(t.Context(), feedName, 0, heads[feedName].Cursor(), heads[feedName].Erasures)
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
		"00000000-0000-0000-0000-000000000000": feed.EntityID("invoices", "00000000-0000-0000-0000-000000000000").String(),
		"42":                                   feed.EntityID("invoices", "42").String(),
		"8c187e56-b9c6-8f69-8ecb-5dbcb3781509": feed.EntityID("invoices", "8c187e56-b9c6-8f69-8ecb-5dbcb3781509").String(),
		"ü":                                    feed.EntityID("invoices", "ü").String(),
		"6ba7b810-9dad-11d1-80b4-00c04fd430c8": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		"6BA7B810-9DAD-11D1-80B4-00C04FD430C8": feed.EntityID("invoices", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8").String(),
	} {
		var got string
		if err := pool.QueryRow(t.Context(), `select feed_uuid('invoices', $1)::text`, key).Scan(&got); err != nil || got != want {
			t.Errorf("the id of %s is %s, not %s (%v)", key, got, want, err)
		}
	}
	id := feed.EntityID("invoices", "42")
	if id.String() != "8c187e56-b9c6-8f69-8ecb-5dbcb3781509" {
		t.Errorf("the id is %s", id)
	}
	if other := feed.EntityID("invoices", id.String()); other == id {
		t.Error("two keys have one id")
	}
}

// invoices makes a table that knows nothing of feeds, and an empty feed of it.
func invoices(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := database(t)
	exec(t, pool, `create table "Invoice" (id bigint primary key, total numeric(9, 2) not null, "Paid at" timestamptz, secret text);
		select feed_create('invoices', personal => false)`)
	return pool
}

func TestAttachedTable(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"commit", "staged"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pool := invoices(t)
			exec(t, pool, `select feed_attach('invoices', '"Invoice"', 'id', array['id', 'total', 'Paid at'], mode => $1)`, mode)
			do := func(sql string) {
				t.Helper()
				exec(t, pool, sql)
				if mode == "staged" {
					exec(t, pool, `select feed_move('invoices')`)
				}
			}
			do(`insert into "Invoice" values (1, 1.10, null, 'secret'), (2, 2, '2026-01-02T03:04:05+02', 'secret')`)
			do(`set timezone = 'Asia/Tokyo'; set intervalstyle = 'postgres'; update "Invoice" set secret = 'changed'; reset timezone`) // nothing that is published
			do(`begin; update "Invoice" set total = 9 where id = 1; update "Invoice" set total = 1.2 where id = 1; commit`)
			do(`update "Invoice" set id = 3 where id = 2`)
			do(`begin; delete from "Invoice" where id = 1; insert into "Invoice" values (1, 1.2, null); commit`)
			do(`begin; insert into "Invoice" values (4, 4); delete from "Invoice" where id = 4; commit`)
			do(`begin; savepoint a; insert into "Invoice" values (5, 5); rollback to a; insert into "Invoice" values (6, 6); savepoint b; update "Invoice" set total = 7; rollback to b; commit`)
			do(`delete from "Invoice" where id = 6`)
			wantSays(t, pool, "invoices",
				`1 {"id":1,"total":1.10,"Paid at":null}`, `1 {"id":2,"total":2.00,"Paid at":"2026-01-02T01:04:05+00:00"}`,
				`2 {"id":1,"total":1.20,"Paid at":null}`, `2 deleted`, `1 {"id":3,"total":2.00,"Paid at":"2026-01-02T01:04:05+00:00"}`,
				`1 {"id":6,"total":6.00,"Paid at":null}`, `2 deleted`)
			refused(t, pool, `truncate "Invoice"`, "55000", "feed_detach first")
			refused(t, pool, `alter table "Invoice" rename total to sum; insert into "Invoice" values (7, 7)`, "42703", "not there any more: total")
			refused(t, pool, `update "Invoice" set secret = repeat('x', 300000), total = 'NaN' where id = 1; alter table "Invoice" alter total type text; update "Invoice" set total = repeat('x', 300000)`, "54000", "takes up to")
			exec(t, pool, `select feed_detach('invoices'); truncate "Invoice"`)
			if n := len(says(t, pool, "invoices")); n != 7 {
				t.Errorf("the feed has %d entries after the end", n)
			}
		})
	}
}

func TestWhatIsNotAttached(t *testing.T) {
	t.Parallel()
	pool := invoices(t)
	exec(t, pool, `create view paid as select * from "Invoice"; create table no_key (id bigint, a text); create table late (id bigint unique deferrable not null);
		create table half (id bigint not null); create unique index on half (id) where id > 0; create unlogged table forgets (id bigint primary key);
		create table parts (id bigint primary key) partition by range (id); create table part partition of parts for values from (0) to (100);
		create table mother (id bigint primary key); create table child () inherits (mother); create table reals (id numeric primary key);
		create table two (a bigint, id bigint, primary key (a, id)); create temp table gone (id bigint primary key);
		create table rich (id bigint primary key, money money)`)
	for _, test := range [][]string{
		{`'nothing', '"Invoice"', 'id'`, "42704", "select feed_create('nothing')"},
		{`'invoices', 'paid', 'id'`, "42809", "Attach the table that a view reads"},
		{`'invoices', 'part', 'id'`, "42809", "partitioned"},
		{`'invoices', 'parts', 'id'`, "42809", "partitioned"},
		{`'invoices', 'child', 'id'`, "42809", "inherits"},
		{`'invoices', 'rich', 'id'`, "22023", "money"},
		{`'invoices', 'mother', 'id'`, "42809", "inherit"},
		{`'invoices', 'forgets', 'id'`, "42809", "keeps its rows"},
		{`'invoices', 'no_key', 'id'`, "22023", "no key"},
		{`'invoices', 'late', 'id'`, "22023", "no key"},
		{`'invoices', 'half', 'id'`, "22023", "no key"},
		{`'invoices', 'two', 'id'`, "22023", "no key"},
		{`'invoices', 'reals', 'id'`, "22023", "no key"},
		{`'invoices', '"Invoice"', 'ID'`, "42703", `no column "ID"`},
		{`'invoices', '"Invoice"', 'id', array['total', 'paid at']`, "42703", `no column "paid at"`},
		{`'invoices', '"Invoice"', 'id', '{}'`, "42703", "no column"},
		{`'invoices', '"Invoice"', 'id', mode => 'later'`, "22023", "commit or staged"},
		{`'invoices', '"Invoice"', null`, "22023", "no key"},
	} {
		refused(t, pool, `select feed_attach(`+test[0]+`)`, test[1], test[2])
	}
	refused(t, pool, `select feed_detach('invoices')`, "42704", "no table is attached")
	exec(t, pool, `select feed_attach('invoices', '"Invoice"', 'id')`)
	refused(t, pool, `select feed_attach('invoices', 'rich', 'id', array['id'])`, "42710", "feed_detach('invoices') first")
}

// A role of an app needs no right to the log, only what feed_grant gives.
func TestRoleOfAnApp(t *testing.T) {
	t.Parallel()
	pool := invoices(t)
	exec(t, pool, `do $$ begin create role feed_app; exception when duplicate_object then end $$;
		create schema app authorization feed_app; create table app.purchase (id uuid primary key, a int); alter table app.purchase owner to feed_app`)
	app := func(sql string) string { return `set role feed_app; ` + sql + `; reset role` }
	defer exec(t, pool, `drop owned by feed_app`)
	refused(t, pool, app(`select feed_put('things', 1, '{}')`), "42501", "permission denied for function feed_put")
	refused(t, pool, app(`select feed_attach('things', 'app.purchase', 'id')`), "42501", "permission denied for function feed_attach")
	exec(t, pool, `select feed_grant('feed_app')`)
	refused(t, pool, app(`select feed_attach('invoices', '"Invoice"', 'id')`), "42501", "only the owner")
	refused(t, pool, app(`insert into feed_entry select * from feed_entry`), "42501", "permission denied")
	refused(t, pool, app(`select feed_append_changes('things', 1)`), "42501", "permission denied")
	exec(t, pool, app(`select feed_attach('things', 'app.purchase', 'id', mode => 'staged'); insert into app.purchase values ('6ba7b810-9dad-11d1-80b4-00c04fd430c8', 1);
		select feed_put('invoices', 1, '{}')`))
	exec(t, pool, `select feed_move('things')`)
	wantSays(t, pool, "things", `1 {"id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","a":1}`)
	wantSays(t, pool, "invoices", `1 {}`)
	exec(t, pool, app(`create temp table feed_pending (like app.purchase); select feed_put('invoices', 2, '{}'); drop table feed_pending`)) // shadows nothing
	wantSays(t, pool, "invoices", `1 {}`, `1 {}`)
	exec(t, pool, app(`select feed_detach('things')`))
}

// A transaction that has called feed_put and idles holds up nobody, and two that publish to the same feeds in opposite
// orders do not deadlock.
func TestSQLWritersDoNotWait(t *testing.T) {
	t.Parallel()
	pool := invoices(t)
	var open []pgx.Tx
	for _, order := range []string{"'things', 'invoices'", "'invoices', 'things'"} {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		if _, err := tx.Exec(t.Context(), `select feed_put(name, $1, '{}') from unnest(array[`+order+`]) as name`, fmt.Sprint(len(open))); err != nil {
			t.Fatal(err)
		}
		open = append(open, tx)
	}
	l := openLog(t, pool)
	began := time.Now()
	fill(t, l, 3)
	exec(t, pool, `select feed_put('invoices', 'other', '{}')`)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("others took %v", took)
	}
	var all errgroup.Group
	for _, tx := range open {
		all.Go(func() error { return tx.Commit(t.Context()) })
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	if n := len(logged(t, pool)); n != 5 {
		t.Errorf("the feed has %d entries", n)
	}
}

// What a transaction with an old snapshot appends after another one has appended is a serialization failure, which clients
// repeat, whatever it would append.
func TestLostSQLAppend(t *testing.T) {
	t.Parallel()
	const appendNext = `
		with head as (select position, digest from feed_head)
		select feed_append('things', position, digest, array[row('things', position + 1, 'put', $1::uuid, 1, now(), '{}', '', '', '')]::feed_entry[], null) from head`
	for name, lost := range map[string]string{
		"another state":                  `select feed_put('things', 1, '{"n":1}')`,
		"another entity":                 `select feed_put('things', 'a'::text, '{"n":1}')`,
		"the state of before":            `select feed_put('things', 1, '{"n":0}')`,
		"the same state":                 `select feed_put('things', 1, '{"n":2}')`,
		"a deletion":                     `select feed_delete('things', 1)`,
		"a deletion of what is not":      `select feed_delete('things', 'a'::text)`,
		"an erasure":                     `select feed_erase('things', 1)`,
		"what is staged of another":      `insert into staged values (2); select feed_move('things')`,
		"what is staged":                 `insert into staged values (1); select feed_move('things')`,
		"what was staged before":         `select feed_move('things')`,
		"an entry with its own position": appendNext,
	} {
		for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
			for _, from := range []string{"an empty feed", "a feed", "a feed with an old mark"} {
				t.Run(fmt.Sprint(name, " ", level, " ", from), func(t *testing.T) {
					t.Parallel()
					if level != pgx.RepeatableRead || from != "a feed" {
						pgtest.Slow(t, "66 databases")
					}
					pool := database(t)
					exec(t, pool, `create table staged (id int primary key); create table other (id int primary key)`)
					exec(t, pool, `select feed_attach('things', 'staged', 'id', mode => 'staged')`)
					if from != "an empty feed" {
						exec(t, pool, `select feed_put('things', 1, '{"n":0}')`)
					}
					if from == "a feed with an old mark" {
						moveMark(t, pool)
					}
					if name == "what was staged before" {
						exec(t, pool, `insert into staged values (3)`)
					}
					tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = tx.Rollback(context.Background()) }()
					if _, err = tx.Exec(t.Context(), `select from other`); err != nil { // takes the snapshot
						t.Fatal(err)
					}
					exec(t, pool, `select feed_put('things', 1, '{"n":2}')`)
					if lost == appendNext {
						_, err = tx.Exec(t.Context(), lost, uuid.New())
					} else {
						_, err = tx.Exec(t.Context(), lost)
					}
					if err == nil {
						err = tx.Commit(t.Context())
					}
					if !isCode(err, "40001") {
						t.Errorf("%v", err)
					}
					var last string
					if err := pool.QueryRow(t.Context(), `select convert_from(payload, 'UTF8') from feed_entry order by position desc limit 1`).Scan(&last); err != nil || last != `{"n":2}` {
						t.Errorf("the feed ends with %s, %v", last, err)
					}
					logged(t, pool)
				})
			}
		}
	}
}

// A transaction of any isolation level may append several times, and leaves nothing else in the log.
func TestAppendsOfOneTransaction(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		pool := database(t)
		for range 2 {
			tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.Background()) }()
			for _, statement := range []string{
				`select feed_put('things', 1, '{"n":1}'); set constraints all immediate`, `savepoint a`, `select feed_put('things', 2, '{"n":2}')`,
				`rollback to a`, `select feed_put('things', 1, '{"n":1}')`, `set constraints all deferred; select feed_put('things', 3, '{"n":3}')`,
			} {
				if _, err := tx.Exec(t.Context(), statement); err != nil {
					t.Fatalf("%s: %s: %v", level, statement, err)
				}
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatalf("%s: %v", level, err)
			}
		}
		wantSays(t, pool, feedName, `1 {"n":1}`, `1 {"n":3}`)
		if n := len(logged(t, pool)); n != 2 {
			t.Errorf("%s: %d entries", level, n)
		}
	}
}

// Programs that use database/sql publish by the same functions.
func TestPutFromDatabaseSQL(t *testing.T) {
	t.Parallel()
	pool := database(t)
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err == nil {
		err = errors.Join(Put(t.Context(), tx.ExecContext, feedName, "a", map[string]int{"n": 1}), Put(t.Context(), tx.ExecContext, feedName, "b", struct{}{}),
			Delete(t.Context(), tx.ExecContext, feedName, "b"), tx.Commit())
	}
	if err != nil {
		t.Fatal(err)
	}
	wantSays(t, pool, feedName, `1 {"n":1}`)
}

// What tables have staged, and the rows that they had before, get to the feed by the processes that serve it, while
// programs write to the table, also when one of them is killed.
// A reader that has its answer asks again at once: meanwhile the mover looks as often as before.
func TestMoverStaysQuick(t *testing.T) {
	t.Parallel()
	pool := invoices(t)
	exec(t, pool, `select feed_attach('invoices', '"Invoice"', 'id', mode => 'staged')`)
	l := openSQL(t, pool)
	for id := range 3 {
		s, err := l.Snapshot(t.Context(), "invoices")
		if err != nil {
			t.Fatal(err)
		}
		moved := s.Moved()
		exec(t, pool, `insert into "Invoice" values ($1, 1)`, id+1)
		<-moved
		if !l.awaited() {
			t.Fatal("the mover believes that no reader waits")
		}
	}
}

func TestMover(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a storm")
	for _, mode := range []string{"commit", "staged"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pool := invoices(t)
			exec(t, pool, `insert into "Invoice" select n, n, null from generate_series(1, 5000) as n`)
			exec(t, pool, `select feed_attach('invoices', '"Invoice"', 'id', array['id', 'total'], mode => $1), feed_backfill('invoices')`, mode)
			var stop sync.WaitGroup
			ctx, end := context.WithTimeout(t.Context(), 3*time.Second)
			defer end()
			for writer := range 3 {
				stop.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						id := 4990 + (n*7+writer)%20 // the last of the old rows, and new ones
						_, err := pool.Exec(context.Background(), `insert into "Invoice" values ($1, $2) on conflict (id) do update set total = excluded.total`, id, n)
						if n%5 == 4 && err == nil {
							_, err = pool.Exec(context.Background(), `delete from "Invoice" where id = $1`, id)
						}
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			locked, err := pool.Begin(t.Context())
			if err == nil {
				_, err = locked.Exec(t.Context(), `update "Invoice" set total = 0 where id between 10 and 20`)
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				openSQL(t, ownPool(t, pool))
			}
			for ctx.Err() == nil { // a server that restarts: its connections are lost
				exec(t, pool, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query ~ '^\s*select (feed_move|feed_backfill_step|name, position, extract)'`)
				time.Sleep(100 * time.Millisecond)
			}
			stop.Wait()
			if err := locked.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			await(t, "the backfill ends and nothing is staged", func() bool {
				var left bool
				err := pool.QueryRow(t.Context(), `select exists (select from feed_staged) or exists (select from feed_backfill where finished_at is null)`).Scan(&left)
				return err == nil && !left
			})
			var wrong int
			err = pool.QueryRow(t.Context(), `
				with newest as (select distinct on (entity_id) convert_from(payload, 'UTF8')::json as said from feed_entry where feed = 'invoices' order by entity_id, version desc)
				select count(*) from (select (said ->> 'id')::bigint as id, (said ->> 'total')::numeric as total from newest where said is not null) as f
				  full join "Invoice" i on i.id = f.id where i.total is distinct from f.total`).Scan(&wrong)
			if err != nil || wrong > 0 {
				t.Errorf("%d rows are not as the feed says: %v", wrong, err)
			}
		})
	}
}

// await fails the test if the condition does not become true within a minute.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within a minute: ", what)
		}
	}
}

// As TestLateCommit, with transactions of SQL: what commits late is not passed.
func TestLateSQLCommit(t *testing.T) {
	t.Parallel()
	pool := invoices(t)
	exec(t, pool, `alter table "Invoice" drop "Paid at", drop secret`)
	exec(t, pool, `select feed_attach('things', '"Invoice"', 'id', mode => 'staged')`)
	reader := &poller{url: serve(t, openSQL(t, pool)).URL + "/feeds/" + feedName, limit: 100}
	var late []pgx.Tx
	for _, sql := range []string{`select feed_put('things', 1, '{}')`, `insert into "Invoice" values (2, 2)`} {
		tx, err := pool.Begin(t.Context())
		if err == nil {
			_, err = tx.Exec(t.Context(), sql)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		late = append(late, tx)
	}
	exec(t, pool, `insert into "Invoice" values (3, 3)`)
	sees := func(keys ...string) func() bool {
		return func() bool {
			reader.poll(t)
			var want []row
			for i, key := range keys {
				want = append(want, row{int64(i + 1), feed.EntityID(feedName, key), 1})
			}
			return slices.Equal(reader.seen, want)
		}
	}
	await(t, "the reader sees what is committed", sees("3"))
	if err := late[1].Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the reader sees what was staged late", sees("3", "2"))
	if err := late[0].Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the reader sees what was put late", sees("3", "2", "1"))
}

// What SQL erases is on the list of erased ids before anything else is served, so it outlives the restore of a dump.
func TestSQLErasureIsListed(t *testing.T) {
	t.Parallel()
	pool := people(t)
	file := filepath.Join(t.TempDir(), "erased")
	l, err := openPersonal(t, pool, file, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	server := personal(t, l, false)
	for range 2 {
		id := uuid.New()
		signUp(t, l, id, "Winnetou")
		exec(t, pool, `with gone as (delete from person where id = $1) select feed_erase('things', $1)`, id)
		wantGone(t, server, pool, "Winnetou", id)
		if list, err := os.ReadFile(file); err != nil || !strings.Contains(string(list), id.String()) {
			t.Errorf("%s is not on the list: %v\n%s", id, err, list)
		}
	}
	logged(t, pool)
}

// What is at the commit counts, whatever other triggers change, whatever the session's settings are, and also for what
// logical replication applies.
func TestAttachedAmongOthers(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"commit", "staged"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			exec(t, pool, `create table sale (id bigint primary key, total int, during tstzrange);
				create function doubled() returns trigger language plpgsql as $$
				begin update sale set total = 2 * new.total where id = new.id and total = new.total and new.total < 100; return null; end $$;
				create trigger a_first after insert on sale for each row execute function doubled();
				create trigger zz_last after insert on sale for each row execute function doubled();
				create function ended() returns trigger language plpgsql as $$
				begin update sale set total = total + 1 where id = new.id + 1; delete from sale where id = 11; update sale set id = 100 where id = 12; return null; end $$;
				create trigger z_other after insert on sale for each row when (new.id between 9 and 12) execute function ended()`)
			exec(t, pool, `select feed_attach('things', 'sale', 'id', mode => $1)`, mode)
			do := func(sql string) {
				t.Helper()
				exec(t, pool, sql)
				exec(t, pool, `select feed_move('things')`)
			}
			do(`insert into sale values (1, 50)`)
			do(`set datestyle = 'German'; set timezone = 'Asia/Tokyo'; insert into sale values (2, 200, '[2026-02-01 00:00Z,)'); reset datestyle; reset timezone`)
			do(`set session_replication_role = replica; insert into sale values (3, 300); reset session_replication_role`)
			do(`begin; select feed_put('things', 3, '{"id":0}'); update sale set total = 301 where id = 3; commit`)
			want := []string{`1 {"id":1,"total":100,"during":null}`, `1 {"id":2,"total":200,"during":"[\"2026-02-01 00:00:00+00\",)"}`,
				`1 {"id":3,"total":300,"during":null}`, `2 {"id":3,"total":301,"during":null}`}
			if mode == "staged" { // the put is an entry of its own
				want = append(want[:3], `2 {"id":0}`, `3 {"id":3,"total":301,"during":null}`)
			}
			wantSays(t, pool, feedName, want...)
			do(`insert into sale select n, 100 + n from generate_series(9, 12) as n`)
			var wrong int
			err := pool.QueryRow(t.Context(), `
				with newest as (select distinct on (entity_id) convert_from(payload, 'UTF8')::json as said from feed_entry order by entity_id, version desc)
				select count(*) from (select (said ->> 'id')::bigint as id, (said ->> 'total')::int as total from newest where said is not null) as f
				  full join sale s on s.id = f.id where s.total is distinct from f.total`).Scan(&wrong)
			if err != nil || wrong > 0 {
				t.Errorf("%d rows are not as the feed says: %v\n%s", wrong, err, strings.Join(says(t, pool, feedName), "\n"))
			}
			var left int
			if err := pool.QueryRow(t.Context(), `select count(*) from feed_pending`).Scan(&left); err != nil || left > 0 {
				t.Errorf("%d changes are left: %v", left, err)
			}
		})
	}
}

// The same row gives the same bytes in every session, whether all columns are published or some, and also where the row
// is read again.
func TestSameBytesInEverySession(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"commit", "staged"} {
		for _, columns := range []string{"null", "array['at', 'f', 'g', 'i', 'b', 'r', 'id']"} {
			pool := database(t)
			exec(t, pool, `create table odd (id int primary key, at timestamptz, f float8, g real[], i interval, b bytea, r tstzrange, hidden int default 1)`)
			exec(t, pool, `select feed_attach('things', 'odd', 'id', `+columns+`, $1)`, mode)
			do := func(sql string) {
				t.Helper()
				exec(t, pool, sql+`; select feed_move('things')`)
			}
			do(`insert into odd values (1, '2026-01-02T03:04:05+02', 0.1::float8 + 0.2, '{0.1}', '1 day 02:03:04', '\x00ff', '[2026-01-02T03:04:05+02,)')`)
			first := says(t, pool, feedName)
			settings := `set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set extra_float_digits = -3; set intervalstyle = 'iso_8601'; set bytea_output = 'escape'; `
			const end = `; reset timezone; reset datestyle; reset extra_float_digits; reset intervalstyle; reset bytea_output`
			do(settings + `begin; update odd set i = i; commit` + end)
			do(settings + `begin; update odd set id = 2; update odd set id = 1; commit` + end)
			wantSays(t, pool, feedName, first...)
			do(settings + `begin; update odd set i = '1 day'; update odd set i = '2 days'; commit` + end)
			want := strings.Replace(strings.Replace(first[0], "1 {", "2 {", 1), "1 day 02:03:04", "2 days", 1)
			wantSays(t, pool, feedName, append(first, want)...)
			if !strings.Contains(first[0], `"f":0.30000000000000004,"g":[0.1],"i":"1 day 02:03:04","b":"\\x00ff"`) {
				t.Errorf("the feed says %s", first[0])
			}
		}
	}
}

// A key that becomes another one, which its collation takes for equal, leaves nothing of the old one on the feed.
func TestKeysThatAreEqual(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"commit", "staged"} {
		pool := database(t)
		if _, err := pool.Exec(t.Context(), `create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`); err != nil {
			t.Skip("this PostgreSQL has no ICU: ", err)
		}
		exec(t, pool, `create table person (id text collate nocase primary key, name text)`)
		exec(t, pool, `select feed_attach('things', 'person', 'id', mode => $1)`, mode)
		exec(t, pool, `insert into person values ('ann', 'Ann')`)
		exec(t, pool, `update person set id = 'Ann'`)
		exec(t, pool, `select feed_move('things')`)
		if says := says(t, pool, feedName); len(says) != 3 || !strings.Contains(says[1]+says[2], `"Ann"`) || !strings.Contains(says[1]+says[2], "2 deleted") {
			t.Errorf("%s: the feed says %q", mode, says)
		}
		// Two such keys at once would be taken for each other.
		exec(t, pool, `create table pair (id text collate nocase not null); create unique index on pair (id collate "C"); select feed_create('pair')`)
		refused(t, pool, `select feed_attach('pair', 'pair', 'id')`, "22023", "no key")
	}
}

// An old app's database may take a backslash in a string for the begin of an escape.
func TestStringsThatDoNotConform(t *testing.T) {
	t.Parallel()
	pool := database(t)
	exec(t, pool, `do $$ begin execute format('alter database %I set standard_conforming_strings = off', current_database()); end $$`)
	pool.Reset()
	if err := Migrate(t.Context(), pool, Options{Schema: "elsewhere"}); err != nil {
		t.Fatal(err)
	}
	for _, schema := range []string{"public", "elsewhere"} {
		exec(t, pool, `set search_path = `+schema+`; select feed_create('sales');
			create table sale (id bigint primary key, name text); select feed_attach('sales', 'sale', 'id');
			insert into sale values (1, E'C:\\sales "\u00e4"'); select feed_put('sales', 'x', json_build_object('name', E'\\\\ud83d'));
			reset search_path`)
		var got []string
		if err := pool.QueryRow(t.Context(), `select array_agg(convert_from(payload, 'UTF8') order by position) from `+schema+`.feed_entry where feed = 'sales'`).Scan(&got); err != nil ||
			!slices.Equal(got, []string{`{"id":1,"name":"C:\\sales \"ä\""}`, `{"name" : "\\\\ud83d"}`}) {
			t.Errorf("%s: %q, %v", schema, got, err)
		}
	}
}

// The row of a person who is erased can be deleted, before and after, and not be written again.
func TestRowOfErased(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"commit", "staged"} {
		pool := database(t)
		exec(t, pool, `create table person (id bigint primary key, name text); insert into person values (1, 'a'), (2, 'b')`)
		exec(t, pool, `select feed_attach('things', 'person', 'id', mode => $1)`, mode)
		exec(t, pool, `begin; select feed_erase('things', 1); delete from person where id = 1; commit`)
		exec(t, pool, `select feed_erase('things', 2)`)
		refused(t, pool, `update person set name = 'c'`, "55000", "is erased")
		exec(t, pool, `delete from person`)
		exec(t, pool, `select feed_move('things')`)
		wantSays(t, pool, feedName, "1 erased", "1 erased")
		refused(t, pool, `insert into person values (1, 'd')`, "55000", "is erased")
	}
}

// Many tables have a row of the UUID zero, which stands for nobody. It is published as others are.
func TestKeyZero(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"commit", "staged"} {
		for _, kind := range []string{"uuid", "text"} {
			pool := database(t)
			exec(t, pool, `create table sale (id `+kind+` primary key, n int); insert into sale values ('`+uuid.Nil.String()+`', 1)`)
			exec(t, pool, `select feed_attach('things', 'sale', 'id', mode => $1), feed_backfill('things')`, mode)
			exec(t, pool, `select feed_backfill_step('things')`)
			exec(t, pool, `update sale set n = 2; select feed_move('things')`)
			exec(t, pool, `update sale set id = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'; select feed_move('things')`)
			exec(t, pool, `insert into sale values ('`+uuid.Nil.String()+`', 3); select feed_move('things')`)
			exec(t, pool, `delete from sale; select feed_move('things')`)
			if entries := logged(t, pool); len(entries) != 7 {
				t.Errorf("the feed has %d entries", len(entries))
			}
			exec(t, pool, `select feed_erase('things', $1::text)`, uuid.Nil.String())
			var other bool
			err := pool.QueryRow(t.Context(), `select bool_or(entity_id not in ('6ba7b810-9dad-11d1-80b4-00c04fd430c8', $1)) from feed_entry`,
				feed.EntityID(feedName, uuid.Nil.String())).Scan(&other)
			if err != nil || other || feed.EntityID(feedName, uuid.Nil.String()) == uuid.Nil {
				t.Errorf("there are entries of another entity: %v, %v", other, err)
			}
		}
	}
}

// In a database that gets the log by logical replication, too, the rows that are applied are not published once more.
func TestAttachedAndReplicatedLog(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"commit", "staged"} {
		pool := database(t)
		exec(t, pool, `create table sale (id bigint primary key, total int)`)
		exec(t, pool, `select feed_attach('things', 'sale', 'id', mode => $1)`, mode)
		exec(t, pool, `insert into pg_subscription_rel (srsubid, srrelid, srsubstate) values (1, 'feed_entry'::regclass, 'r')`)
		exec(t, pool, `begin; set local session_replication_role = replica; insert into sale values (1, 1); update sale set total = 2; commit`)
		exec(t, pool, `insert into sale values (2, 2)`)
		exec(t, pool, `select feed_move('things')`)
		wantSays(t, pool, feedName, `1 {"id":2,"total":2}`)
	}
}

// Half a surrogate pair is no text: strict readers refuse the whole page that has it.
func TestHalfCharacter(t *testing.T) {
	t.Parallel()
	pool := database(t)
	for _, bad := range []string{`\ud800`, `\uDFFF`, `\ude97\ud83d`, `\\\ud83d.\ude97`, `\ud83d\ud83d\ude97`} {
		refused(t, pool, `select feed_put('things', 1, '{"a":"`+bad+`"}')`, "22P05", "surrogate")
	}
	good := []string{`{"a":"\ud83d\ude97"}`, `{"a":"\\ud83d"}`, `{"a":"\u00e4"}`}
	for _, text := range good {
		exec(t, pool, `select feed_put('things', 1, $1)`, text)
	}
	wantSays(t, pool, feedName, "1 "+good[0], "2 "+good[1], "3 "+good[2])
	exec(t, pool, `create table doc (id bigint primary key, body json); select feed_create('docs'), feed_attach('docs', 'doc', 'id')`)
	refused(t, pool, `insert into doc values (1, '"\ud800"')`, "22P02", "json")
}

// While somebody holds a feed, as a commit does that waits for a standby, the mover waits, too, and reports no fault.
func TestMoverWhileAFeedIsLocked(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "lock timeouts")
	pool := invoices(t)
	exec(t, pool, `insert into "Invoice" values (1, 1)`)
	exec(t, pool, `select feed_attach('invoices', '"Invoice"', 'id', mode => 'staged'), feed_backfill('invoices')`)
	holder, err := pool.Begin(t.Context())
	if err == nil {
		_, err = holder.Exec(t.Context(), `select from feed for update`)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback(context.Background()) }()
	exec(t, pool, `insert into "Invoice" values (2, 2)`)
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	l, err := Open(t.Context(), ownPool(t, pool), Options{Logger: slog.New(slog.NewTextHandler(file, nil)), FromSQL: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	time.Sleep(3 * time.Second) // longer than it waits for a lock
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "both rows are published", func() bool { return len(says(t, pool, "invoices")) == 2 })
	if log, err := os.ReadFile(file.Name()); err != nil || strings.Contains(string(log), "ERROR") {
		t.Errorf("%v\n%s", err, log)
	}
}

// While the table of a backfill is locked, as by a migration, other feeds do not wait for that, and it is told.
func TestBackfillOfALockedTable(t *testing.T) {
	t.Parallel()
	pool := invoices(t)
	exec(t, pool, `insert into "Invoice" values (1, 1); select feed_attach('invoices', '"Invoice"', 'id'), feed_backfill('invoices')`)
	holder, err := pool.Begin(t.Context())
	if err == nil {
		_, err = holder.Exec(t.Context(), `lock table "Invoice"`)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback(context.Background()) }()
	began := time.Now()
	refused(t, pool, `set local lock_timeout = '15s'; select feed_backfill_step('invoices')`, "55P03", "lock timeout")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a step waits for %v", took)
	}
	openSQL(t, pool)
	says := func(condition string) func() bool {
		return func() bool {
			var ok bool
			err := pool.QueryRow(t.Context(), `select `+condition+` from feed_backfill`).Scan(&ok)
			return err == nil && ok
		}
	}
	await(t, "it tells why it does not go on", says(`error like '%locked%'`))
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "it ends", says(`finished_at is not null and error is null and rows = 1`))
}

// A row that no entry can carry does not keep the others of a backfill.
func TestBackfillOfLargeRows(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	pool := database(t)
	exec(t, pool, `create table note (id bigint primary key, text text);
		insert into note select n, case when n in (7, 2000) then repeat('x', 300000) end from generate_series(1, 2500) as n;
		select feed_attach('things', 'note', 'id'), feed_backfill('things')`)
	openSQL(t, pool)
	await(t, "the backfill ends", func() bool {
		var ended bool
		err := pool.QueryRow(t.Context(), `
			select finished_at is not null and refused = '{7,2000}' and rows = 2498 and error like '2 rows%' from feed_backfill`).Scan(&ended)
		return err == nil && ended
	})
	if n := len(logged(t, pool)); n != 2498 {
		t.Errorf("the feed has %d entries", n)
	}
}

// What is attached under bad circumstances is refused, or published all the same.
func TestAttachedUnderCircumstances(t *testing.T) {
	t.Parallel()
	pool := invoices(t)
	refused(t, pool, `select feed_attach('invoices', '"Invoice"', 'id', array['id', 'total', 'total'])`, "42701", "named twice")
	long := strings.Repeat("x", 46)
	refused(t, pool, `select feed_create('`+long+`'), feed_attach('`+long+`', '"Invoice"', 'id')`, "42622", "45 bytes")

	// A commit that the session would not wait for is waited for.
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	var waits string
	if _, err = tx.Exec(t.Context(), `set local synchronous_commit = off; select feed_put('things', 1, '{}'); set constraints all immediate`); err == nil {
		err = tx.QueryRow(t.Context(), `show synchronous_commit`).Scan(&waits)
	}
	if err != nil || waits != "on" {
		t.Errorf("synchronous_commit is %s: %v", waits, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}

	// A backfill is of one table. Columns may have any name.
	exec(t, pool, `create table odd (id int primary key, t int, feed_name text, "row" text, was text); insert into odd values (1, 2, 'a', 'b', 'c');
		insert into "Invoice" values (1, 1)`)
	exec(t, pool, `select feed_attach('invoices', '"Invoice"', 'id'), feed_backfill('invoices')`)
	exec(t, pool, `select feed_detach('invoices'), feed_attach('invoices', 'odd', 'id')`)
	refused(t, pool, `select feed_backfill_step('invoices')`, "55000", "feed_backfill again")
	exec(t, pool, `select feed_backfill('invoices')`)
	exec(t, pool, `select feed_backfill_step('invoices')`)
	exec(t, pool, `update odd set t = 3`)
	wantSays(t, pool, "invoices", `1 {"id":1,"t":2,"feed_name":"a","row":"b","was":"c"}`, `2 {"id":1,"t":3,"feed_name":"a","row":"b","was":"c"}`)

	// Policies hide no row from a backfill: it fails.
	exec(t, pool, `do $$ begin create role feed_server; exception when duplicate_object then end $$;
		create policy hidden on odd for all to feed_server using (false); alter table odd enable row level security;
		grant all on all tables in schema public to feed_server; grant all on all sequences in schema public to feed_server;
		select feed_backfill('invoices')`)
	defer exec(t, pool, `drop owned by feed_server`)
	refused(t, pool, `set role feed_server; select feed_backfill_step('invoices'); reset role`, "42501", "row-level security")
}
