package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

var leashes = []struct {
	name     string
	watchdog bool
}{{"the kernel watches", false}, {"a watchdog watches", true}}

func TestCloseLeavesNothingButTheData(t *testing.T) {
	for _, leash := range leashes {
		t.Run(leash.name, func(t *testing.T) {
			cfg := postgres.Config{Dir: pgtest.Dir(t), Name: "sales"}
			if leash.watchdog {
				cfg = postgres.WithWatchdog(cfg)
			}
			before := len(goroutines())
			for round := range 2 {
				db, err := postgres.Open(t.Context(), cfg, parts)
				if err != nil {
					t.Fatal(err)
				}
				if n := count(t, db.Pool); n != round {
					t.Errorf("round %d begins with %d rows", round, n)
				}
				if _, err := db.Exec(t.Context(), "INSERT INTO part VALUES ($1)", strconv.Itoa(round)); err != nil {
					t.Error(err)
				}
				db.Close()
				db.Close()
				if left := processes(t, cfg.Dir); len(left) > 0 {
					t.Errorf("still running after Close: %v", left)
				}
				eventually(t, "no goroutine is left", func() bool { return len(goroutines()) <= before })
			}
		})
	}
}

func TestServiceKilled(t *testing.T) {
	for _, leash := range leashes {
		t.Run(leash.name, func(t *testing.T) {
			t.Parallel()
			dir := pgtest.Dir(t)
			args := helperArgs{Dir: dir, Name: "sales", Watchdog: leash.watchdog}
			h := startHelper(t, args)
			h.data(t)
			h.kill(t)
			nothingRuns(t, dir)

			// The next one starts at once, while the server of the one killed is still going down.
			h = startHelper(t, args)
			h.data(t)
			h.kill(t)
			h = startHelper(t, args)
			server := postmaster(t, h.data(t))

			// Now the server gets no chance to go down in order.
			if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			h.kill(t)
			db := open(t, postgres.Config{Dir: dir, Name: "sales"}, parts)
			if n := count(t, db.Pool); n != 3 {
				t.Errorf("%d rows, want 3", n)
			}
		})
	}
}

func TestServiceKilledWhileItStarts(t *testing.T) {
	for _, leash := range leashes {
		t.Run(leash.name, func(t *testing.T) {
			t.Parallel()
			dir := pgtest.Dir(t)
			open(t, postgres.Volatile(postgres.Config{Dir: dir, Name: "sales"})).Close()
			for range 5 {
				// As a script's background job, whose children ignore SIGINT.
				h := startHelper(t, helperArgs{Dir: dir, Name: "sales", Watchdog: leash.watchdog, Volatile: true}, func(cmd *exec.Cmd) {
					cmd.Args = []string{"sh", "-c", "trap '' INT QUIT; exec " + cmd.Path}
					cmd.Path = "/bin/sh"
				})
				eventually(t, "the server starts", func() bool { return len(processes(t, dir)) > 0 })
				h.kill(t)
				nothingRuns(t, dir)
			}
		})
	}
}

func TestServiceKilledInInitdb(t *testing.T) {
	for _, leash := range leashes {
		t.Run(leash.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(pgtest.Dir(t), "company [1]")
			h := startHelper(t, helperArgs{Dir: dir, Name: "sales", Watchdog: leash.watchdog, Volatile: true})
			unfinished := func() bool {
				found, _ := fs.Glob(os.DirFS(dir), "sales/initdb-*/base")
				return len(found) > 0
			}
			eventually(t, "initdb has begun", unfinished)
			h.kill(t)
			if _, err := os.Stat(filepath.Join(dir, "sales", "data")); err == nil {
				t.Fatal("initdb was done before the kill")
			}
			db := open(t, postgres.Volatile(postgres.Config{Dir: dir, Name: "sales"}), parts)
			if n := count(t, db.Pool); n != 0 {
				t.Errorf("%d rows, want 0", n)
			}
			eventually(t, "the left-over is gone", func() bool { return !unfinished() })
		})
	}
}

func TestServerKilledWhileItsServiceRuns(t *testing.T) {
	for _, leash := range leashes {
		t.Run(leash.name, func(t *testing.T) {
			t.Parallel()
			var log lockedBuffer
			cfg := postgres.Volatile(postgres.Config{Dir: pgtest.Dir(t), Name: "sales", Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if leash.watchdog {
				cfg = postgres.WithWatchdog(cfg)
			}
			db := open(t, cfg, parts)
			if _, err := db.Exec(t.Context(), "INSERT INTO part VALUES ('wheel')"); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				data := filepath.Join(cfg.Dir, "sales", "data")
				first := postmaster(t, data)
				if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the server answers again", func() bool {
					var n int
					err := db.QueryRow(t.Context(), "SELECT count(*) FROM part").Scan(&n)
					return err == nil && n == 1 && postmaster(t, data) != first
				})
			}
			if !strings.Contains(log.String(), "signal: killed") {
				t.Errorf("the log does not say how the server ended:\n%s", log.String())
			}
			db.Close()
			nothingRuns(t, cfg.Dir)
		})
	}
}

func TestFolderInUse(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	h := startHelper(t, helperArgs{Dir: dir, Name: "sales", Volatile: true})
	h.data(t)
	cfg := postgres.Volatile(postgres.Config{Dir: dir, Name: "sales"})
	_, err := postgres.Open(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "sales")+" is in use by process "+strconv.Itoa(h.Process.Pid)) {
		t.Errorf("error of a second process: %v", err)
	}
	if err := postgres.Remove(cfg); err == nil {
		t.Error("the data of a running server was deleted")
	}
	h.stdin.Close()
	if err := h.Wait(); err != nil {
		t.Error(err)
	}
	db := open(t, cfg, parts)
	if n := count(t, db.Pool); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
	db.Close()
	if err := postgres.Remove(cfg); err != nil {
		t.Error(err)
	}
	if db := open(t, cfg, parts); count(t, db.Pool) != 0 {
		t.Error("Remove left the rows")
	}
}

// Data folders that were put in each other's place begin no new database.
func TestFoldersSwapped(t *testing.T) {
	dir := pgtest.Dir(t)
	open := func(name string) error {
		db, err := postgres.Open(t.Context(), postgres.Config{Dir: dir, Name: name}, parts)
		if err == nil {
			db.Close()
		}
		return err
	}
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sales", "customers"} {
		if err := open(name); err != nil {
			t.Fatal(err)
		}
	}
	move("sales", "aside")
	move("customers", "sales")
	move("aside", "customers")
	for name, other := range map[string]string{"sales": "customers", "customers": "sales"} {
		if err := open(name); err == nil || !strings.Contains(err.Error(), "no database "+name+", but those of other services: "+other) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A database that somebody has dropped is not begun again, empty.
func TestDatabaseDropped(t *testing.T) {
	t.Parallel()
	cfg := postgres.Volatile(postgres.Config{Dir: pgtest.Dir(t), Name: "sales"})
	db := open(t, cfg, parts)
	admin := db.Config().ConnConfig.Copy()
	admin.Database = "postgres"
	conn, err := pgx.ConnectConfig(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	run := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	run(`drop database sales with (force)`)
	db.Close()
	for range 2 {
		if _, err := postgres.Open(t.Context(), cfg, parts); err == nil || !strings.Contains(err.Error(), "the database sales was dropped") {
			t.Errorf("error: %v", err)
		}
	}
}

func TestLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(pgtest.Dir(t), strings.Repeat("long, \"path\" ", 12))
	cfg := postgres.Volatile(postgres.Config{Dir: dir, Name: "sales"})
	db := open(t, cfg, parts)
	var socket string
	if err := db.QueryRow(t.Context(), "SHOW unix_socket_directories").Scan(&socket); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("socket folder: %v, %v", info, err)
	}
	db.Close()
	if _, err := os.Stat(socket); err == nil {
		t.Errorf("%s is left after Close", socket)
	}
}

// What a shell has for psql leads a private server's service nowhere else.
func TestVariablesForOtherServers(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	h := startHelper(t, helperArgs{Dir: dir, Name: "sales", Volatile: true}, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "PGSERVICE=nowhere", "PGSERVICEFILE=/nowhere", "PGOPTIONS=-c search_path=nowhere -c default_transaction_read_only=on",
			"PGTARGETSESSIONATTRS=standby", "PGCONNECT_TIMEOUT=x", "PGMINPROTOCOLVERSION=x", "PGHOST=nowhere.example", "PGUSER=nobody", "PGDATA=/nowhere")
	})
	if data := h.data(t); data != filepath.Join(dir, "sales", "data") {
		t.Errorf("data in %s", data)
	}
	h.end(t, 1)
}

func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	args := helperArgs{Dir: filepath.Join(dir, ".edison"), Name: "sales", Volatile: true}
	h := startHelper(t, args, asNobody(t, dir))
	data := h.data(t)
	if want := filepath.Join(dir, ".edison", "sales", "data"); data != want {
		t.Errorf("data in %s, want %s", data, want)
	}
	group, err := syscall.Getpgid(postmaster(t, data))
	if err != nil || group == syscall.Getpgrp() {
		t.Errorf("the server's process group is %d, error %v", group, err)
	}
	if info, err := os.Stat(filepath.Dir(data)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", info, err)
	}
	h.kill(t)
	nothingRuns(t, dir)
	// Root, too, can go on with the data of an ordinary user, and give it back.
	open(t, postgres.Volatile(postgres.Config{Dir: args.Dir, Name: "sales"}), parts).Close()
	h = startHelper(t, args, asNobody(t, dir))
	h.data(t)
}

// closed is a folder that only root may enter, where a service of root's starts.
func closed(t *testing.T) (dir string, here func(*exec.Cmd)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root has a server run by another user")
	}
	dir = pgtest.Dir(t)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Remove(postgres.Config{Dir: filepath.Join(dir, ".edison"), Name: "sales"}); err != nil {
			t.Error(err)
		}
	})
	return dir, func(cmd *exec.Cmd) { cmd.Dir = dir }
}

func TestRootInAClosedFolder(t *testing.T) {
	dir, here := closed(t)
	t.Parallel()
	home := filepath.Join(dir, ".edison", "sales")
	link := filepath.Join(home, "data")
	run := func(rows int) (data string) {
		t.Helper()
		h := startHelper(t, helperArgs{Name: "sales"}, here)
		data = h.data(t)
		h.end(t, rows)
		return data
	}
	data := run(1)
	if target, err := os.Readlink(link); target != data || !strings.HasPrefix(data, "/var/lib/edison-cars/sales-") {
		t.Fatalf("data in %q, the link leads to %q, error %v", data, target, err)
	}
	info, err := os.Stat(filepath.Dir(data))
	if err != nil || info.Mode().Perm() != 0o700 || info.Sys().(*syscall.Stat_t).Uid == 0 {
		t.Errorf("%s: %v, %v", data, info, err)
	}
	run(2)

	// So does a folder that is reached by another path.
	other := filepath.Join(pgtest.Dir(t), "link")
	if err := os.Symlink(dir, other); err != nil {
		t.Fatal(err)
	}
	by := startHelper(t, helperArgs{Name: "sales"}, func(cmd *exec.Cmd) { cmd.Dir, cmd.Env = other, append(cmd.Env, "PWD="+other) })
	by.data(t)
	by.end(t, 3)

	// A folder that was deleted and made again finds its data.
	if err := os.RemoveAll(filepath.Join(dir, ".edison")); err != nil {
		t.Fatal(err)
	}
	run(4)

	if err := errors.Join(os.RemoveAll(filepath.Dir(data)), os.Remove(link)); err != nil {
		t.Fatal(err)
	}
	if text := startHelper(t, helperArgs{Name: "sales"}, here).failure(t); !strings.Contains(text, "is gone: mount its volume") {
		t.Errorf("error where the data was removed: %s", text)
	}
	if err := postgres.Remove(postgres.Config{Dir: filepath.Dir(home), Name: "sales"}); err != nil {
		t.Error(err)
	}
	run(1)

	// What somebody else put in its place is not used.
	if err := errors.Join(os.RemoveAll(filepath.Join(data, "base")), os.Chown(filepath.Dir(data), 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	if text := startHelper(t, helperArgs{Name: "sales"}, here).failure(t); !strings.Contains(text, "belongs to user 12345") {
		t.Errorf("error of a stranger's folder: %s", text)
	}
}

// TestRootInAFolderThatWasChosen shows that data goes nowhere else than where it is told to.
func TestRootInAFolderThatWasChosen(t *testing.T) {
	dir, here := closed(t)
	t.Parallel()
	chosen := filepath.Join(dir, ".edison")
	text := startHelper(t, helperArgs{Dir: chosen, Name: "sales"}, here).failure(t)
	if !strings.Contains(text, "cannot work in "+chosen) || !strings.Contains(text, "DATA_DIR") {
		t.Errorf("error: %s", text)
	}
	if found, _ := filepath.Glob("/var/lib/edison-cars/sales-*/data"); len(found) > 0 {
		for _, data := range found {
			if link, _ := os.Readlink(filepath.Join(chosen, "sales", "data")); link == data {
				t.Errorf("data in %s", data)
			}
		}
	}

	// The data of a folder that was copied is not shared.
	h := startHelper(t, helperArgs{Name: "sales"}, here)
	h.data(t)
	h.end(t, 1)
	other := pgtest.Dir(t)
	if out, err := exec.Command("sh", "-c", "cp -a "+chosen+" "+other+" && chmod 700 "+other).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text = startHelper(t, helperArgs{Name: "sales"}, func(cmd *exec.Cmd) { cmd.Dir = other }).failure(t)
	if !strings.Contains(text, "the data of another folder") {
		t.Errorf("error: %s", text)
	}
}

func TestNoBinaries(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	_, err := postgres.Open(t.Context(), postgres.Config{Dir: pgtest.Dir(t), Name: "sales", Bin: empty})
	if err == nil || !strings.Contains(err.Error(), "PGBIN") || !strings.Contains(err.Error(), empty) {
		t.Errorf("error: %v", err)
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	cfg := postgres.Volatile(postgres.Config{Dir: dir, Name: "sales"})
	open(t, cfg).Close()
	data := filepath.Join(dir, "sales", "data")

	if err := os.WriteFile(filepath.Join(data, "postgresql.auto.conf"), []byte("shared_buffers = plenty\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "plenty") {
		t.Errorf("the error does not say what the server's log says: %v", err)
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("the error of data of another version: %v", err)
	}
}

func TestOpenGivesUp(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	cfg := postgres.Volatile(postgres.Config{Dir: dir, Name: "sales"})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		eventually(t, "the server is being made", func() bool { return len(processes(t, dir)) > 0 })
	}()
	if _, err := postgres.Open(ctx, cfg); err == nil {
		t.Error("Open succeeds though its context is cancelled")
	}
	nothingRuns(t, dir)
	open(t, cfg)
}

// goroutines lists all but the one that package os/signal keeps from its first use on.
func goroutines() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return slices.DeleteFunc(strings.Split(string(stacks), "\n\n"), func(stack string) bool {
		return strings.Contains(stack, "os/signal.loop")
	})
}

type lockedBuffer struct {
	sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.Lock()
	defer b.Unlock()
	return b.buffer.String()
}
