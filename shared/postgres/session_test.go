package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// with returns the URL with one more parameter.
func with(t *testing.T, text, name, value string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return u.String()
}

func backend(t *testing.T, pool *pgxpool.Pool) (pid int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestSpoiledConnectionsLeaveThePool(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Config{URL: with(t, database(t, "spoiled"), "pool_max_conns", "1"), Name: "sales"})
	for code, leaves := range map[string]bool{
		"XX000": true, "0A000": true, "26000": true, "42P05": true, "42P01": true, "42883": true, "22P03": true, "25006": true,
		"23505": false, "22P02": false, "40001": false,
	} {
		before := backend(t, db.Pool)
		var pgErr *pgconn.PgError
		_, err := db.Exec(t.Context(), `do $$ begin raise exception using errcode = '`+code+`'; end $$`)
		if !errors.As(err, &pgErr) || pgErr.Code != code {
			t.Fatal(err)
		}
		if left := backend(t, db.Pool) != before; left != leaves {
			t.Errorf("%s: the connection has left the pool: %t", code, left)
		}
	}
	t.Run("not in the middle of a transaction", func(t *testing.T) {
		before := backend(t, db.Pool)
		err := pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
			err := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), `select * from nowhere`)
				return err
			})
			if err == nil {
				return errors.New("no error")
			}
			_, err = tx.Exec(t.Context(), `create table after_the_savepoint ()`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if backend(t, db.Pool) == before {
			t.Error("the connection is used again")
		}
	})
}

func TestParameters(t *testing.T) {
	t.Parallel()
	base := database(t, "parameters")
	for _, test := range []struct{ set, value, want string }{
		{"application_name", "x", "30s|1min|UTC|x|\"$user\", public"},
		{"lock_timeout", "3s", "3s|1min|UTC|sales|\"$user\", public"},
		{"search_path", `o'clock, "a b"`, "30s|1min|UTC|sales|o'clock, \"a b\""},
	} {
		db := open(t, postgres.Config{URL: with(t, base, test.set, test.value), Name: "sales"})
		var got string
		err := db.QueryRow(t.Context(), `select concat_ws('|', current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'),
			current_setting('timezone'), current_setting('application_name'), current_setting('search_path'))`).Scan(&got)
		if err != nil || got != test.want {
			t.Errorf("%s: %s, %v, want %s", test.set, got, err, test.want)
		}
	}
}

// Encodings that are set for the role or the database change no letter, and a database that cannot hold every text is
// refused.
func TestEncoding(t *testing.T) {
	t.Parallel()
	base := database(t, "encoding")
	db := open(t, postgres.Config{URL: base, Name: "sales"})
	if _, err := db.Exec(t.Context(), `alter database encoding set client_encoding = 'LATIN1'`); err != nil {
		t.Fatal(err)
	}
	db = open(t, postgres.Config{URL: with(t, base, "client_encoding", "LATIN1"), Name: "sales"})
	var length int
	if err := db.QueryRow(t.Context(), `select length($1::text)`, "Łukasz José").Scan(&length); err != nil || length != 11 {
		t.Errorf("%d letters, %v", length, err)
	}
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		name := "encoding_" + strings.ToLower(encoding)
		if _, err := db.Exec(t.Context(), `create database `+name+` encoding '`+encoding+`' locale 'C' template template0`); err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/" + name
		refused, err := postgres.Open(t.Context(), postgres.Config{URL: u.String(), Name: "sales", Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			refused.Close()
		}
		if err == nil || !strings.Contains(err.Error(), name+" has the encoding "+encoding) {
			t.Errorf("%s: %v", encoding, err)
		}
	}
}

// Transactions that wait for a lock see what its holder has done, whatever isolation level is the default of the
// database.
func TestIsolation(t *testing.T) {
	t.Parallel()
	base := database(t, "isolation")
	db := open(t, postgres.Config{URL: base, Name: "sales"})
	if _, err := db.Exec(t.Context(), `alter database isolation set default_transaction_isolation = 'serializable'`); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{
		base, with(t, base, "default_transaction_isolation", "repeatable read"), with(t, base, "options", "-c default_transaction_isolation=serializable"),
	} {
		var got string
		err := open(t, postgres.Config{URL: url, Name: "sales"}).QueryRow(t.Context(), `select current_setting('transaction_isolation')`).Scan(&got)
		if err != nil || got != "read committed" {
			t.Errorf("%s: %s, %v", url, got, err)
		}
	}
}

// A database that becomes read-only, as after a failover, and writable again.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	admin := pgtest.New(t)
	db := open(t, postgres.Config{URL: database(t, "turns_read_only"), Name: "sales"}, parts)
	turn := func(how string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), `alter database turns_read_only `+how); err != nil {
			t.Fatal(err)
		}
	}
	// hold takes several connections at once.
	hold := func() {
		t.Helper()
		for range 4 {
			conn, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
		}
	}
	turn("set default_transaction_read_only = on")
	if _, err := admin.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = 'turns_read_only'`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pool notices", func() bool { return errors.Is(postgres.Writable(t.Context(), db.Pool), postgres.ErrReadOnly) })
	hold()
	var pgErr *pgconn.PgError
	if _, err := db.Exec(t.Context(), `insert into part values ('x')`); !errors.As(err, &pgErr) || pgErr.Code != "25006" {
		t.Fatal(err)
	}
	t.Run("a service that starts waits until it is writable", func(t *testing.T) {
		var log lockedBuffer
		cfg := postgres.Config{URL: pgtest.URL(db.Pool), Name: "sales", Logger: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		opened := make(chan error, 1)
		go func() {
			db, err := postgres.Open(ctx, cfg)
			if err == nil {
				db.Close()
			}
			opened <- err
		}()
		eventually(t, "the log tells", func() bool { return len(opened) > 0 || strings.Contains(log.String(), "the database is read-only") })
		cancel()
		if err := <-opened; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	hold() // idle connections that were opened while it was read-only
	turn("reset default_transaction_read_only")
	eventually(t, "all connections write again", func() bool {
		ok := true
		for range 4 {
			conn, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			_, err = conn.Exec(t.Context(), `delete from part`)
			ok = ok && err == nil
		}
		return ok
	})
	if _, err := db.Exec(t.Context(), `insert into part values ('x')`); err != nil {
		t.Error(err)
	}
}

// A hot standby is refused, and taken when it is promoted.
func TestHotStandby(t *testing.T) {
	t.Parallel()
	cfg := postgres.Config{Dir: pgtest.Dir(t), Name: "sales"}
	db, err := postgres.Open(t.Context(), cfg, parts)
	if err != nil {
		t.Fatal(err)
	}
	var data string
	if err := db.QueryRow(t.Context(), `show data_directory`).Scan(&data); err != nil {
		t.Fatal(err)
	}
	db.Close()
	signal := filepath.Join(data, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(signal, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	var log lockedBuffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	opened := make(chan error, 1)
	go func() {
		db, err := postgres.Open(t.Context(), cfg, parts)
		if err == nil {
			err = postgres.Writable(t.Context(), db.Pool)
			db.Close()
		}
		opened <- err
	}()
	eventually(t, "the log tells of a standby", func() bool {
		return len(opened) > 0 || strings.Contains(log.String(), "the database is read-only: it is a standby")
	})
	conn, err := pgx.Connect(t.Context(), "postgres://postgres@/postgres?host="+filepath.Join(cfg.Dir, cfg.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `select pg_promote()`); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

func TestPooler(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "statement"} {
		t.Run(mode+" pooling is refused", func(t *testing.T) {
			t.Parallel()
			through := pgtest.Bouncer(t, pgtest.URL(pgtest.New(t)), mode)
			db, err := postgres.Open(t.Context(), postgres.Config{URL: through, Name: "sales"}, parts)
			if err == nil {
				db.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "pool_mode = session") {
				t.Error(err)
			}
		})
	}
	for sessions := 1; sessions <= 4; sessions++ {
		t.Run(fmt.Sprint("transaction pooling is refused, of ", sessions, " sessions that take turns"), func(t *testing.T) {
			t.Parallel()
			through := pgtest.Bouncer(t, pgtest.URL(pgtest.New(t)), "transaction", "server_round_robin = 1")
			var open []*pgx.Conn
			for range sessions { // each has one, as long as it is in a transaction
				conn, err := pgx.Connect(t.Context(), through)
				if err == nil {
					_, err = conn.Exec(t.Context(), `begin; select 1`)
				}
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, conn)
			}
			for _, conn := range open {
				if _, err := conn.Exec(t.Context(), `rollback`); err != nil {
					t.Fatal(err)
				}
				if err := conn.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			db, err := postgres.Open(t.Context(), postgres.Config{URL: through, Name: "sales"}, parts)
			if err == nil {
				db.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "pool_mode = session") {
				t.Error(err)
			}
		})
	}
	for name, x := range map[string]struct{ setting, says string }{
		"sessions that are not reset":            {"server_reset_query =", "server_reset_query = DISCARD ALL"},
		"sessions that keep locks":               {"server_reset_query = RESET ALL; DEALLOCATE ALL; UNLISTEN *", "server_reset_query = DISCARD ALL"},
		"sessions that keep settings":            {"server_reset_query = SELECT pg_advisory_unlock_all(); DEALLOCATE ALL; UNLISTEN *", "server_reset_query = DISCARD ALL"},
		"sessions that keep prepared statements": {"server_reset_query = SELECT pg_advisory_unlock_all(); RESET ALL; UNLISTEN *", "server_reset_query = DISCARD ALL"},
		"sessions that keep listening":           {"server_reset_query = SELECT pg_advisory_unlock_all(); RESET ALL; DEALLOCATE ALL", "server_reset_query = DISCARD ALL"},
		"one session":                            {"default_pool_size = 1\nquery_wait_timeout = 1", "default_pool_size"},
		"too few sessions":                       {"default_pool_size = 5\nquery_wait_timeout = 1", "default_pool_size"},
		"too few connections":                    {"max_client_conn = 5", "default_pool_size"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			through := pgtest.Bouncer(t, pgtest.URL(pgtest.New(t)), "session", x.setting)
			db, err := postgres.Open(t.Context(), postgres.Config{URL: through, Name: "sales"}, parts)
			if err == nil {
				db.Close()
			}
			if err == nil || !strings.Contains(err.Error(), x.says) {
				t.Error(err)
			}
		})
	}
	t.Run("session pooling is taken", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		through := pgtest.Bouncer(t, pgtest.URL(pool), "session")
		db := open(t, postgres.Config{URL: with(t, through, "statement_timeout", "7s"), Name: "sales"}, parts)
		var got string
		err := db.QueryRow(t.Context(), `select concat_ws(' ', current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'),
			current_setting('statement_timeout'), current_setting('timezone'))`).Scan(&got)
		if want := "30s 1min 7s UTC"; err != nil || got != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
		count(t, db.Pool)
	})
}
