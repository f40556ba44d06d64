package publish_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// openIn migrates a schema, makes the feed "things" in it, and opens the log.
func openIn(t *testing.T, pool *pgxpool.Pool, schema string) *publish.Log {
	t.Helper()
	options := publish.Options{Schema: schema}
	if err := publish.Migrate(t.Context(), pool, options); err != nil {
		t.Fatal(err)
	}
	create := pgx.Identifier{"feed_create"}
	if schema != "" {
		create = pgx.Identifier{schema, "feed_create"}
	}
	exec(t, pool, `select `+create.Sanitize()+`('things')`)
	log, err := publish.Open(t.Context(), pool, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return log
}

// all returns the entries of the feed "things".
func all(t *testing.T, log *publish.Log) []feed.Entry {
	t.Helper()
	snapshot, err := log.Snapshot(t.Context(), "things")
	if err != nil {
		t.Fatal(err)
	}
	entries, _, err := log.Entries(t.Context(), "things", 0, snapshot.Cursor(), snapshot.Erasures)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func payloads(t *testing.T, log *publish.Log) string {
	t.Helper()
	var said []string
	for _, e := range all(t, log) {
		said = append(said, string(e.Entity))
	}
	return strings.Join(said, " ")
}

var someTime = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// Three logs of one database, in three schemas, know nothing of each other, and write the app's own table, also where
// the app's connections choose a schema themselves.
func TestSchemas(t *testing.T) {
	t.Parallel()
	t.Run("by the search_path of the server", func(t *testing.T) {
		t.Parallel()
		testSchemas(t, pgtest.New(t))
	})
	t.Run("by that of each connection", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		exec(t, pool, `create schema app`)
		config := pool.Config()
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `set search_path = app`)
			return err
		}
		own, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(own.Close)
		testSchemas(t, own)
	})
}

func testSchemas(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `create table thing (id uuid primary key, log text not null)`)
	schemas := []string{"", "feeds", `Odd "name"'s, 100%`}
	var logs []*publish.Log
	for _, schema := range schemas {
		logs = append(logs, openIn(t, pool, schema))
	}
	for i, log := range logs {
		id := uuid.New()
		err := log.InTx(t.Context(), func(tx *publish.Tx) error {
			tx.Append("things", publish.Entry{ID: id, Version: 1, Updated: someTime, Payload: []byte(`{"log":"` + string(rune('a'+i)) + `"}`)})
			_, err := tx.Exec(t.Context(), `insert into thing values ($1, $2)`, id, schemas[i])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		change := publish.NewChange()
		change.Exec(`with changed as (update thing set log = 'b' where id = $1 returning 1) select feed_guard(count(*) = 1) from changed`, id)
		change.Append("things", publish.Entry{ID: id, Version: 2, Updated: someTime.Add(1e6), Payload: []byte(`{"log":"` + string(rune('A'+i)) + `"}`)})
		if err := log.Commit(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	for i, log := range logs {
		want := `{"log":"` + string(rune('a'+i)) + `"} {"log":"` + string(rune('A'+i)) + `"}`
		if got := payloads(t, log); got != want {
			t.Errorf("the log of schema %q has %s, want %s", schemas[i], got, want)
		}
		if err := log.Appendable(t.Context(), "things"); err != nil {
			t.Error(err)
		}
	}
	var n int
	if err := pool.QueryRow(t.Context(), `select count(*) from thing`).Scan(&n); err != nil || n != len(schemas) {
		t.Errorf("the app has %d rows: %v", n, err)
	}
}

// What is not of this version of the package is refused, and says what to do.
func TestVersionOfTables(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	refused := func(t *testing.T, do func(context.Context, *pgxpool.Pool, publish.Options) error, schema string, parts ...string) {
		t.Helper()
		err := do(t.Context(), pool, publish.Options{Schema: schema})
		for _, part := range parts {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("the error does not say %q: %v", part, err)
			}
		}
	}
	open := func(ctx context.Context, pool *pgxpool.Pool, options publish.Options) error {
		log, err := publish.Open(ctx, pool, options)
		if err == nil {
			log.Close()
		}
		return err
	}
	refused(t, open, "", "public", "none of the tables", "publish.Migrate")
	if err := publish.Migrate(t.Context(), pool, publish.Options{}); err != nil {
		t.Fatal(err)
	}
	refused(t, open, "feeds", "feeds", "none of the tables", "publish.Migrate") // not those of public
	if err := open(t.Context(), pool, publish.Options{}); err != nil {
		t.Error(err)
	}
	exec(t, pool, `update goose_publish set version_id = 999 where version_id = (select max(version_id) from goose_publish)`)
	refused(t, open, "", "public", "version 999", "of a newer program")
	refused(t, publish.Migrate, "", "public", "version 999", "of a newer program", "before the first release", "an empty database")
}

// A program may use goose for its own tables.
func TestOwnGoose(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	exec(t, pool, `create table goose_db_version (id int primary key, version_id bigint not null, is_applied bool not null, tstamp timestamp default now())`)
	exec(t, pool, `insert into goose_db_version values (1, 20261128, true)`)
	openIn(t, pool, "")
	var rows, version int64
	if err := pool.QueryRow(t.Context(), `select count(*), max(version_id) from goose_db_version`).Scan(&rows, &version); err != nil || rows != 1 || version != 20261128 {
		t.Errorf("%d rows of the program's own migrations, version %d: %v", rows, version, err)
	}
}

// A feed may be made by each start of a program.
func TestFeedCreateAgain(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	log := openIn(t, pool, "")
	err := log.InTx(t.Context(), func(tx *publish.Tx) error {
		tx.Append("things", publish.Entry{ID: uuid.New(), Version: 1, Updated: someTime, Payload: []byte(`{}`)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `select feed_create('things')`)
	if n := len(all(t, log)); n != 1 {
		t.Errorf("the feed has %d entries", n)
	}
}
