package postgres_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// A primary and its standby, which is promoted while the primary goes on, as after a failover by mistake: the pool and
// sessions that are in use lose the primary, though it answers, and it gets no connection any more. A role without
// rights learns that, too.
func TestPrimaryThatWasReplaced(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a standby")
	primary := pgtest.NewServer(t)
	standby := primary.Standby()
	primary.Exec("create role app login", "create database things owner app")
	urls := []string{primary.URL("things"), standby.URL("things")}
	open := func() *postgres.DB {
		t.Helper()
		url := strings.Replace(pgtest.EitherURL(t, "things", urls...), "target_session_attrs=read-write", "", 1) // the default
		url = strings.Replace(url, "//"+"postgres@", "//app@", 1)
		db, err := postgres.Open(t.Context(), postgres.Config{URL: url, Name: "things", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}, sql.Migrations("access"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		return db
	}
	timeline := func(db *postgres.DB) (now string) {
		_ = db.QueryRow(t.Context(), `select left(pg_walfile_name(pg_current_wal_lsn()), 8)`).Scan(&now)
		return now
	}
	db := open()
	held, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	if got := timeline(db); got != "00000001" {
		t.Fatalf("it begins on the timeline %s", got)
	}
	standby.Promote()
	began := time.Now()
	for timeline(db) != "00000002" {
		if time.Since(began) > time.Minute {
			t.Fatal("it stays with the old primary")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("it is with the new primary after %v", time.Since(began))
	if _, err := held.Exec(t.Context(), `create table written_to_the_old_primary ()`); err == nil {
		t.Error("a session that was in use still writes to the old primary")
	}
	for range 50 {
		db.Reset()
		if got := timeline(db); got != "00000002" {
			t.Fatalf("it went back to the timeline %q", got)
		}
	}
	if got := timeline(open()); got != "00000002" {
		t.Errorf("a process that starts is on the timeline %q", got)
	}
}
