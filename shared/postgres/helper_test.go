package postgres_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const (
	helperEnv = "POSTGRES_TEST_HELPER"
	patience  = 60 * time.Second
)

func TestMain(m *testing.M) {
	if args := os.Getenv(helperEnv); args != "" {
		if err := help(args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	pgtest.Main(m)
}

type helperArgs struct {
	Dir, Name          string
	Watchdog, Volatile bool
}

// help is a service in a process of its own: it opens its database, writes a row, says where the
// server's data is, and runs until its standard input closes. In the end it says how many rows there are.
func help(text string) error {
	var args helperArgs
	if err := json.Unmarshal([]byte(text), &args); err != nil {
		return err
	}
	ctx := context.Background()
	cfg := postgres.Config{Dir: args.Dir, Name: args.Name, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if args.Watchdog {
		cfg = postgres.WithWatchdog(cfg)
	}
	if args.Volatile {
		cfg = postgres.Volatile(cfg)
	}
	db, err := postgres.Open(ctx, cfg, parts)
	if err != nil {
		return err
	}
	defer db.Close()
	var data string
	if err := db.QueryRow(ctx, "SHOW data_directory").Scan(&data); err != nil {
		return err
	}
	if _, err := db.Exec(ctx, "INSERT INTO part VALUES ($1)", strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	fmt.Println(data)
	if _, err = io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	var rows int
	if err := db.QueryRow(ctx, "SELECT count(*) FROM part").Scan(&rows); err != nil {
		return err
	}
	fmt.Println(rows)
	return nil
}

var parts = postgres.Migrations{Name: "parts", FS: fstest.MapFS{
	"00001_part.sql":  {Data: []byte("-- +goose Up\nCREATE TABLE part (name text PRIMARY KEY);\n")},
	"00002_stock.sql": {Data: []byte("-- +goose Up\nALTER TABLE part ADD COLUMN stock int NOT NULL DEFAULT 0;\n")},
}}

// helper is a started child process.
type helper struct {
	*exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
	stderr *os.File
}

// startHelper runs help in a child process, which is killed at the end of the test.
func startHelper(t *testing.T, args helperArgs, prepare ...func(*exec.Cmd)) *helper {
	t.Helper()
	text, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := &helper{Cmd: exec.Command(exe)}
	h.Env = append(os.Environ(), helperEnv+"="+string(text))
	if h.stderr, err = os.Create(filepath.Join(t.TempDir(), "stderr")); err != nil {
		t.Fatal(err)
	}
	h.Stderr = h.stderr
	for _, p := range prepare {
		p(h.Cmd)
	}
	if h.stdin, err = h.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := h.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.stdout = bufio.NewReader(stdout)
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Process.Kill()
		_ = h.Wait()
	})
	return h
}

// data waits until the helper has its database and returns the server's data folder.
func (h *helper) data(t *testing.T) string {
	t.Helper()
	line, err := h.stdout.ReadString('\n')
	if err != nil {
		_ = h.Wait()
		log, _ := os.ReadFile(h.stderr.Name())
		t.Fatalf("the helper ends without a database: %v\n%s", h.ProcessState, log)
	}
	return strings.TrimSpace(line)
}

// end waits until the helper has ended in good order, with so many rows in its database.
func (h *helper) end(t *testing.T, rows int) {
	t.Helper()
	h.stdin.Close()
	line, _ := h.stdout.ReadString('\n')
	if err := h.Wait(); err != nil || strings.TrimSpace(line) != strconv.Itoa(rows) {
		t.Errorf("the helper ends with %q rows, want %d, error %v", strings.TrimSpace(line), rows, err)
	}
}

// failure waits until the helper has failed to open its database, and returns what it says.
func (h *helper) failure(t *testing.T) string {
	t.Helper()
	if line, err := h.stdout.ReadString('\n'); err == nil {
		t.Errorf("it has opened a database in %s", line)
		h.kill(t)
	} else if err := h.Wait(); err == nil {
		t.Error("the helper ends without an error")
	}
	text, err := os.ReadFile(h.stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (h *helper) kill(t *testing.T) {
	t.Helper()
	if err := h.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = h.Wait()
}

func open(t *testing.T, cfg postgres.Config, migrations ...postgres.Migrations) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), cfg, migrations...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func count(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM part").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// postmaster is the process id of the server that runs on the data folder.
func postmaster(t *testing.T, data string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// processes lists those that run in the folder: a server's, and on Linux its watchdog's too.
func processes(t *testing.T, folder string) (found []string) {
	t.Helper()
	if runtime.GOOS == "linux" {
		links, err := filepath.Glob("/proc/[0-9]*/cwd")
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd+"/", folder+"/") {
				found = append(found, link)
			}
		}
		return found
	}
	out, err := exec.Command("ps", "-axo", "pid,args").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, folder) {
			found = append(found, line)
		}
	}
	return found
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func nothingRuns(t *testing.T, folder string) {
	t.Helper()
	eventually(t, "no process is left in "+folder, func() bool { return len(processes(t, folder)) == 0 })
}

// asNobody has the child process run as an ordinary user, when the tests run as root.
func asNobody(t *testing.T, dir string) func(*exec.Cmd) {
	t.Helper()
	return func(cmd *exec.Cmd) {
		if os.Geteuid() != 0 {
			return
		}
		// go test's own folder is closed to others.
		exe := filepath.Join(dir, "helper")
		// A process that another test starts meanwhile would inherit the file while this one writes it: it could not be
		// run.
		if out, err := exec.CommandContext(t.Context(), "cp", cmd.Path, exe).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		cmd.Path, cmd.Dir = exe, dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}
