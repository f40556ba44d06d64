package subscribe

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// wantSQLState fails the test unless that is why a poll failed, and nothing moved: the fault is no entry's.
func (c *copier) wantSQLState(t *testing.T, err error, code string, position int64) {
	t.Helper()
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != code {
		t.Errorf("%v, not SQLSTATE %s", err, code)
	}
	if at := c.stored(t); at.cursor.Position != position || at.rejected > 0 || len(c.things(t)) != int(position) {
		t.Errorf("it is at %s with %d things, %d rejected", at.cursor, len(c.things(t)), at.rejected)
	}
}

// The table's file becomes one that the kernel lets nobody write to for want of space.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there is no /dev/full")
	}
	s := newSource(t)
	s.put(t, 1, 25)
	c := newCopier(t, s)
	var file string
	if err := c.pool.QueryRow(t.Context(), `select current_setting('data_directory') || '/' || pg_relation_filepath('thing')`).Scan(&file); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file, file+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", file); err != nil {
		t.Fatal(err)
	}
	c.pool.Reset() // who has the file open already
	err := c.poll(t.Context())
	if err == nil || !strings.Contains(err.Error(), "No space left on device") {
		t.Errorf("%v", err)
	}
	c.wantSQLState(t, err, "53100", 0)
	if err := os.Rename(file+".kept", file); err != nil {
		t.Fatal(err)
	}
	c.pool.Reset()
	c.mustPoll(t)
	c.wantUpToDate(t, s)
}

// One entry alone needs a file that cannot be used. PostgreSQL has the code of an internal error for most of what may
// be the reason, such as a quota, and one of privileges for a volume that became read-only.
func TestFileThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	for code, instead := range map[string]string{
		"XX000": "/proc/self/comm", // has no end to write behind
		"42501": "/proc/version",   // is read-only
		"53100": "/dev/full",
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 25)
			c := newCopier(t, s)
			if _, err := c.pool.Exec(t.Context(), `create table extra (n int)`); err != nil {
				t.Fatal(err)
			}
			var file string
			if err := c.pool.QueryRow(t.Context(), `select current_setting('data_directory') || '/' || pg_relation_filepath('extra')`).Scan(&file); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(file, file+".kept"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(instead, file); err != nil {
				t.Fatal(err)
			}
			c.pool.Reset() // who has the file open already
			apply := c.Apply
			c.failsOn(3, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `insert into extra values (1)`)
				return err
			})
			c.wantSQLState(t, c.poll(t.Context()), code, 0)
			if err := os.Rename(file+".kept", file); err != nil {
				t.Fatal(err)
			}
			c.pool.Reset()
			c.Apply = apply
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		})
	}
}

func TestLockTimeout(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	s := newSource(t)
	s.put(t, 1, 25)
	c := newCopier(t, s)
	apply := c.Apply
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		_, err := tx.Exec(ctx, `set local lock_timeout = '50ms'`) // sooner than the engine's
		return errors.Join(err, apply(ctx, tx, b))
	}
	other, err := c.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback(context.Background()) }()
	if _, err := other.Exec(t.Context(), `lock table thing in share mode`); err != nil {
		t.Fatal(err)
	}
	c.wantSQLState(t, c.poll(t.Context()), "55P03", 0)
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mustPoll(t)
	c.wantUpToDate(t, s)
}

// What waits for a lock of another feed's Apply sees what that has done, whatever isolation level is the pool's
// default.
func TestApplyIsReadCommitted(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 3)
	c := newCopier(t, s)
	config, err := pgxpool.ParseConfig(pgtest.URL(c.pool)) // as a program that opens its pool by itself
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	if c.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.pool.Close)
	apply, level := c.Apply, ""
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		err := tx.QueryRow(ctx, `select current_setting('transaction_isolation')`).Scan(&level)
		return errors.Join(err, apply(ctx, tx, b))
	}
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	if level != "read committed" {
		t.Errorf("Apply ran in a %s transaction", level)
	}
}

// A server that crashes takes all connections with it, the one with the lock too, and recovers. The service lives on.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 50)
	db, err := postgres.Open(t.Context(), postgres.Config{Name: "test", Dir: pgtest.Dir(t), Bin: os.Getenv("PGBIN")}, sql.Migrations("subscribe"), thingMigrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	things := func() (n int) {
		if db.QueryRow(t.Context(), `select count(*) from thing`).Scan(&n) != nil {
			return -1
		}
		return n
	}
	url, _, log := start(t, map[string]string{"DATABASE_URL": pgtest.URL(db.Pool), "FEED_URL_THINGS": s.feedURL(), "PAGE_SIZE": "1"})
	for n := 100; n <= 300; n += 100 {
		eventually(t, "it copies", func() bool { return things() > n-100 })
		var pid int
		eventually(t, "there is a process to kill", func() bool {
			return db.QueryRow(t.Context(), `select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() limit 1`).Scan(&pid) == nil
		})
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil { // the server then restarts its other processes
			t.Fatal(err)
		}
		s.put(t, n-49, n+50)
	}
	eventually(t, "it has everything", func() bool { return things() == 350 })
	if text := log.String(); !strings.Contains(text, "poll failed") && !strings.Contains(text, "not polling") {
		t.Errorf("the log says nothing of it:\n%s", text)
	}
	eventually(t, "it is fresh and ready", func() bool {
		return subscription(t, url).State == Fresh && !subscription(t, url).Standby && status(t, url+"/readyz") == 200
	})
	c := s.copier(t, db.Pool, 10)
	defer c.fetcher.client.Close()
	c.wantUpToDate(t, s)
}
