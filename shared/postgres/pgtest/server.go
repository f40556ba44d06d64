package pgtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/internal/cluster"
)

// A Server is a private PostgreSQL server of one test, which can be stopped and started again.
type Server struct {
	t       testing.TB
	dir     string
	cluster *cluster.Cluster // nil while it is stopped
	cache   string           // of what initdb makes
}

// NewServer starts a private server that ends with the test. Under -short it skips the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	return newServer(&Server{t: t, dir: Dir(t), cache: cache()})
}

// NewCluster is NewServer for a server with a system identifier of its own, which takes longer.
func NewCluster(t testing.TB) *Server {
	t.Helper()
	return newServer(&Server{t: t, dir: Dir(t)})
}

func newServer(s *Server) *Server {
	s.t.Helper()
	s.Start()
	s.t.Cleanup(s.Stop)
	return s
}

// Replicated starts a primary and its synchronous standby: a commit on the primary waits until the standby has flushed
// it.
func Replicated(t testing.TB) (primary, standby *Server) {
	t.Helper()
	primary = NewServer(t)
	standby = primary.Standby()
	primary.Exec("alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")
	return primary, standby
}

// Standby copies the server by pg_basebackup and starts the copy as an asynchronous standby of it, until the test ends.
func (s *Server) Standby() *Server {
	s.t.Helper()
	standby := &Server{t: s.t, dir: Dir(s.t)}
	uid, gid := s.owner()
	if err := os.Chown(standby.dir, uid, gid); err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	s.run(standby.dir, s.Program("pg_basebackup"), "--dbname="+s.URL("postgres"),
		"--pgdata="+filepath.Join(standby.dir, "data"), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	standby.Start()
	s.t.Cleanup(standby.Stop)
	return standby
}

// owner returns who owns the server's files.
func (s *Server) owner() (uid, gid int) {
	info, err := os.Stat(filepath.Join(s.dir, "data", "PG_VERSION"))
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	return int(owner.Uid), int(owner.Gid)
}

// run runs a program of PostgreSQL as the owner of the server's files.
func (s *Server) run(dir, program string, args ...string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	cmd.Dir = dir
	if os.Geteuid() == 0 {
		uid, gid := s.owner()
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("pgtest: %s: %v\n%s", filepath.Base(program), err, out)
	}
}

// SpendIDs starts the server again as one that has hardly a transaction id left to give out, and spends those: it takes
// no more changes. A replication slot that nobody reads keeps autovacuum from making room.
func (s *Server) SpendIDs() {
	s.t.Helper()
	const next = 1<<31 - 3_000_000 + 600 // PostgreSQL stops 3,000,000 before the oldest transaction would lie in the future
	s.Exec("alter system set wal_level = logical")
	s.Stop()
	s.Start()
	s.Exec("select pg_create_logical_replication_slot('forgotten', 'pgoutput')", "checkpoint")
	resetWAL, data := s.Program("pg_resetwal"), filepath.Join(s.dir, "data")
	s.Stop()
	s.run(s.dir, resetWAL, "--force", "--next-transaction-id="+strconv.Itoa(next), data)
	segment := filepath.Join(data, "pg_xact", fmt.Sprintf("%04X", next>>20))
	uid, gid := s.owner()
	if err := errors.Join(os.WriteFile(segment, make([]byte, 256<<10), 0o600), os.Chown(segment, uid, gid)); err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	s.Start()
	conn, err := pgconn.Connect(s.t.Context(), s.URL("postgres"))
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	defer conn.Close(context.WithoutCancel(s.t.Context()))
	for range 1000 {
		if _, err := conn.Exec(s.t.Context(), "select txid_current()").ReadAll(); err != nil {
			return
		}
	}
	s.t.Fatal("pgtest: the server gives out more ids")
}

// Start starts the server again with the data that it has, and returns when it takes connections.
func (s *Server) Start() {
	s.t.Helper()
	c, err := cluster.Start(s.t.Context(), cluster.Options{
		Dir: s.dir, Bin: os.Getenv("PGBIN"), Volatile: true, Cache: s.cache,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	s.cluster = c
}

// Stop stops the server at once, as a crash does. It may be called again.
func (s *Server) Stop() {
	if s.cluster != nil {
		s.cluster.Stop()
		s.cluster = nil
	}
}

// Kill ends all processes of the server by SIGKILL, as the loss of its machine does. The server may be frozen.
func (s *Server) Kill() {
	s.t.Helper()
	pids := s.freeze(s.t)
	killing := time.AfterFunc(10*time.Millisecond, func() { // when nothing restarts it any more
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	defer killing.Stop()
	s.Stop()
}

// Promote makes a standby a primary, which waits for no standby of its own.
func (s *Server) Promote() {
	s.t.Helper()
	s.Exec("select pg_promote()")
}

// Program returns the path of a program of the server's version, such as pg_dump.
func (s *Server) Program(name string) string {
	server, err := filepath.EvalSymlinks(filepath.Join(s.cluster.Bin(), "postgres"))
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	return filepath.Join(filepath.Dir(server), name)
}

// URL returns the connection URL of a database of the server. It stays the same over a restart.
func (s *Server) URL(database string) string { return s.cluster.URL(database) }

// Open opens a database of the server, as a service does, until the test ends. It makes it if it is not there.
func (s *Server) Open(name string, migrations ...postgres.Migrations) *pgxpool.Pool {
	s.t.Helper()
	db, err := postgres.Open(s.t.Context(), postgres.Config{URL: s.URL(name), Name: name}, migrations...)
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	s.t.Cleanup(db.Close)
	return db.Pool
}

// OpenEither opens a database of whichever of the two servers takes writes, now and with each connection that is opened
// later.
func (s *Server) OpenEither(other *Server, name string) *pgxpool.Pool {
	s.t.Helper()
	db, err := postgres.Open(s.t.Context(), postgres.Config{URL: EitherURL(s.t, name, s.URL(name), other.URL(name)), Name: name})
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	s.t.Cleanup(db.Close)
	return db.Pool
}

// OpenWithStandbys opens a database of the server, and a pool for each of its standbys, as a service does, until the
// test ends.
func (s *Server) OpenWithStandbys(name string, standbys ...*Server) (pool *pgxpool.Pool, read []*pgxpool.Pool) {
	s.t.Helper()
	var urls []string
	for _, standby := range standbys {
		urls = append(urls, standby.URL(name))
	}
	db, err := postgres.Open(s.t.Context(), postgres.Config{URL: s.URL(name), ReadURL: EitherURL(s.t, name, urls...), Name: name})
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	s.t.Cleanup(db.Close)
	return db.Pool, db.Standbys
}

// EitherURL returns the URL of a database of whichever of the servers takes writes. The servers have these URLs.
func EitherURL(t testing.TB, database string, urls ...string) string {
	t.Helper()
	var user string
	var hosts, ports []string
	for _, text := range urls {
		config, err := pgconn.ParseConfig(text)
		if err != nil {
			t.Fatal("pgtest: ", err)
		}
		user, hosts, ports = config.User, append(hosts, config.Host), append(ports, strconv.Itoa(int(config.Port)))
	}
	u := url.URL{Scheme: "postgres", User: url.User(user), Path: "/" + database, RawQuery: url.Values{
		"host": {strings.Join(hosts, ",")}, "port": {strings.Join(ports, ",")}, "sslmode": {"disable"}, "target_session_attrs": {"read-write"},
	}.Encode()}
	return u.String()
}

// Waiting returns the last statements of the transactions that wait for a standby.
func (s *Server) Waiting() (statements []string) {
	s.t.Helper()
	for _, row := range s.query(`select query from pg_stat_activity where wait_event = 'SyncRep'`) {
		statements = append(statements, string(row[0]))
	}
	return statements
}

// Exec runs statements in the database postgres, each on its own.
func (s *Server) Exec(statements ...string) {
	s.t.Helper()
	for _, sql := range statements {
		s.query(sql)
	}
}

func (s *Server) query(sql string) [][][]byte {
	s.t.Helper()
	ctx := context.Background() // also in a cleanup
	conn, err := pgconn.Connect(ctx, s.URL("postgres"))
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		s.t.Fatalf("pgtest: %s: %v", sql, err)
	}
	return results[len(results)-1].Rows
}
