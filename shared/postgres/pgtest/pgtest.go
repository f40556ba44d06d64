// Package pgtest gives each test a PostgreSQL database of its own. One private server per test
// process starts with the first that asks and ends with the process.
package pgtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/internal/cluster"
)

const (
	folderPrefix = "edison-pgtest-"
	leftoverAge  = 10 * time.Minute
	closeTimeout = 10 * time.Second
)

// A server is the PostgreSQL server of the test process.
type server struct {
	dir       string
	cluster   *cluster.Cluster
	admin     *pgxpool.Pool
	strategy  string   // of CREATE DATABASE
	templates sync.Map // hash of a list of migrations: func() (string, error) that names the template
	databases atomic.Int64
}

var started struct {
	sync.Mutex
	*server
}

// Main is the body of a TestMain: it runs the tests, stops and deletes the server, and exits.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is [Main] without the exit, for a TestMain that has more to do. It returns the exit code.
func Run(m *testing.M) int {
	Overlap()
	code := m.Run()
	started.Lock()
	if s := started.server; s != nil {
		if err := s.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = max(code, 1)
		}
	}
	return code
}

// New makes a database with the migrations applied, and drops it at the end of the test. Each list
// of migrations runs once per process; every further database is a copy.
func New(t testing.TB, migrations ...postgres.Migrations) *pgxpool.Pool {
	t.Helper()
	pool, drop, err := open(t.Context(), migrations)
	if err != nil {
		t.Fatal("pgtest: ", err)
	}
	t.Cleanup(func() {
		if err := drop(); err != nil {
			t.Error("pgtest: ", err)
		}
	})
	return pool
}

// Example is New for an Example, which has no testing.TB. It panics if it fails, as drop does, which drops the
// database.
func Example(migrations ...postgres.Migrations) (pool *pgxpool.Pool, drop func()) {
	pool, dropped, err := open(context.Background(), migrations)
	if err != nil {
		panic(err)
	}
	return pool, func() {
		if err := dropped(); err != nil {
			panic(err)
		}
	}
}

func open(ctx context.Context, migrations []postgres.Migrations) (pool *pgxpool.Pool, drop func() error, err error) {
	s, err := running()
	if err != nil {
		return nil, nil, err
	}
	template, err := s.template(ctx, migrations)
	if err != nil {
		return nil, nil, err
	}
	name := "test_" + strconv.FormatInt(s.databases.Add(1), 10)
	if err := s.create(ctx, name, template); err != nil {
		return nil, nil, err
	}
	config, err := postgres.PoolConfig(s.cluster.URL(name), name) // without the checks of [postgres.Open]: the template passed them
	if err != nil {
		return nil, nil, err
	}
	pool, err = pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	return pool, func() error {
		_, err := s.admin.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)") // the context of the test is over
		closed := make(chan struct{})
		go func() {
			pool.Close()
			close(closed)
		}()
		select {
		case <-closed:
		case <-time.After(closeTimeout):
			err = errors.Join(err, fmt.Errorf("the test ends with %d connections that were not given back", pool.Stat().AcquiredConns()))
		}
		return err
	}, nil
}

// URL returns the connection URL of the pool's database, for another process of this user.
func URL(pool *pgxpool.Pool) string { return pool.Config().ConnString() }

// SetClock makes the clock of the pool's database wrong for later connections, and for the column of the table whose
// default is now().
func SetClock(t testing.TB, pool *pgxpool.Pool, by time.Duration, table, column string) {
	t.Helper()
	for _, statement := range []string{
		`create schema if not exists clock`,
		fmt.Sprintf(`create or replace function clock.now() returns timestamptz stable language sql as 'select pg_catalog.now() + interval ''%d seconds'''`, by/time.Second),
		`alter table ` + table + ` alter ` + column + ` set default clock.now()`,
		`alter database ` + pool.Config().ConnConfig.Database + ` set search_path = public, clock, pg_catalog`,
	} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	pool.Reset()
}

// running starts the server if there is none yet.
func running() (*server, error) {
	started.Lock()
	defer started.Unlock()
	if started.server != nil {
		return started.server, nil
	}
	sweep()
	dir, err := MkdirTemp(folderPrefix)
	if err != nil {
		return nil, err
	}
	c, err := cluster.Start(context.Background(), cluster.Options{
		Dir:      dir,
		Bin:      os.Getenv("PGBIN"),
		Volatile: true,
		Cache:    cache(),
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &server{dir: dir, cluster: c}
	if s.admin, err = pgxpool.New(context.Background(), c.URL("postgres")); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	var major int
	if err := s.admin.QueryRow(context.Background(), "SELECT current_setting('server_version_num')::int / 10000").Scan(&major); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if major >= 15 {
		s.strategy = " STRATEGY file_copy" // half the work of the default, which writes all of it to the WAL
	}
	started.server = s
	return s, nil
}

func (s *server) stop() error {
	if s.admin != nil {
		s.admin.Close()
	}
	s.cluster.Stop()
	return errors.Join(cluster.Remove(s.dir), os.RemoveAll(s.dir))
}

// sweep deletes what test processes left behind that were killed. Failures do not matter.
func sweep() {
	leftovers, _ := filepath.Glob(filepath.Join(parent(), folderPrefix+"*"))
	for _, dir := range leftovers {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > leftoverAge && cluster.Remove(dir) == nil {
			os.RemoveAll(dir)
		}
	}
}

// create copies a database that nobody is connected to.
func (s *server) create(ctx context.Context, name, template string) error {
	_, err := s.admin.Exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s%s", name, template, s.strategy))
	return err
}

// template returns the name of the database that has the migrations applied.
func (s *server) template(ctx context.Context, migrations []postgres.Migrations) (string, error) {
	key, err := hash(migrations)
	if err != nil {
		return "", err
	}
	name := "template_" + key
	made, _ := s.templates.LoadOrStore(key, sync.OnceValue(func() error {
		// The first test to ask may end early, but others wait for the same template.
		ctx := context.WithoutCancel(ctx)
		if err := s.create(ctx, name, "template0"); err != nil {
			return err
		}
		db, err := postgres.Open(ctx, postgres.Config{URL: s.cluster.URL(name), Name: name})
		if err != nil {
			return err
		}
		defer db.Close()
		return migrate.Up(ctx, db.Pool, "", migrations...) // without a claim to the tables
	}))
	return name, made.(func() error)()
}

func hash(migrations []postgres.Migrations) (string, error) {
	h := sha256.New()
	for _, m := range migrations {
		fmt.Fprintf(h, "set %q\n", m.Name)
		err := fs.WalkDir(m.FS, ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := fs.ReadFile(m.FS, path)
			fmt.Fprintf(h, "file %q %q\n", path, content)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:16], nil
}
