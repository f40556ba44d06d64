package postgres_test

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// Of two servers that both take writes, a process stays with the first one of its URL, also through lost connections,
// and says so. When that one ends it goes to the other one, unless that has other data.
func TestTwoPrimaries(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "servers")
	for name, x := range map[string]struct {
		other   func(first *pgtest.Server) *pgtest.Server
		said    string
		follows bool
	}{
		"of one timeline": {func(first *pgtest.Server) *pgtest.Server {
			one, two := first.Standby(), first.Standby()
			one.Promote()
			two.Promote()
			*first = *one
			return two
		}, "two servers take writes", true},
		"of two clusters": {func(first *pgtest.Server) *pgtest.Server {
			other := pgtest.NewCluster(t)
			other.Exec("create database things")
			return other
		}, "belongs to another cluster", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := pgtest.NewServer(t)
			first.Exec("create database things")
			other := x.other(first)
			var log lockedBuffer
			db, err := postgres.Open(t.Context(), postgres.Config{
				URL: pgtest.EitherURL(t, "things", first.URL("things"), other.URL("things")), Name: "things", Logger: slog.New(slog.NewTextHandler(&log, nil)),
			}, sql.Migrations("access"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			used := func() (folder string) {
				_ = db.QueryRow(t.Context(), `select current_setting('unix_socket_directories')`).Scan(&folder)
				return folder
			}
			at := used()
			if !strings.Contains(first.URL("things"), url.QueryEscape(at)) && !strings.Contains(first.URL("things"), at) {
				t.Fatalf("it begins at %s, not %s", at, first.URL("things"))
			}
			for began := time.Now(); time.Since(began) < 3*time.Second; time.Sleep(10 * time.Millisecond) {
				db.Reset()
				if got := used(); got != at {
					t.Fatalf("it went to %q", got)
				}
			}
			if !strings.Contains(log.String(), x.said) {
				t.Errorf("it says %s", log.String())
			}
			first.Kill()
			ended := time.Now()
			for used() == "" && time.Since(ended) < 20*time.Second && (x.follows || time.Since(ended) < 5*time.Second) {
				time.Sleep(10 * time.Millisecond)
			}
			if got := used(); (got != "") != x.follows {
				t.Errorf("after the end of the first one it is at %q", got)
			}
		})
	}
}

// A role that may not ask for timelines is told what to grant.
func TestPrimaryThatMayNotBeAsked(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a standby")
	primary := pgtest.NewServer(t)
	primary.Exec("create role app login", "create database things owner app")
	conn, err := pgx.Connect(t.Context(), primary.URL("things"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), `revoke execute on function pg_control_system() from public`); err != nil {
		t.Fatal(err)
	}
	standby := primary.Standby()
	var log lockedBuffer
	db, err := postgres.Open(t.Context(), postgres.Config{
		URL:  strings.Replace(pgtest.EitherURL(t, "things", primary.URL("things"), standby.URL("things")), "//postgres@", "//app@", 1),
		Name: "things", Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}, sql.Migrations("access"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if said := strings.Count(log.String(), "grant execute on function pg_control_system() to app"); said != 1 {
		t.Errorf("it says so %d times: %s", said, log.String())
	}
}
