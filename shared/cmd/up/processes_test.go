package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const patience = 6 * time.Minute

// built is the folder of the binaries, which are built once for all companies: no deadline waits for a compiler.
var built struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	pgtest.Overlap() // a company mostly waits
	code := m.Run()
	if err := os.RemoveAll(built.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// buildAll builds up, and all that it builds.
func buildAll() (dir string, err error) {
	if dir, err = pgtest.MkdirTemp("edison-built-"); err != nil {
		return "", err
	}
	root, err := moduleRoot()
	if err == nil {
		err = os.Chmod(dir, 0o755) // for the user of private servers
	}
	if err == nil {
		err = build(context.Background(), root, dir)
	}
	if err == nil {
		var out []byte
		if out, err = exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "up"), ".").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	return dir, err
}

// bench is where one company runs: up is a process, and so is all that it starts.
type bench struct {
	all    *testing.T // the whole test, of which others are steps
	dir    string
	offset int    // of its ports
	binary string // up

	services []service // as up lists them
	started  []*process
}

func newBench(t *testing.T) *bench {
	t.Helper()
	pgtest.Slow(t, "the whole company")
	built.Do(func() { built.dir, built.err = buildAll() })
	b := &bench{all: t, dir: pgtest.Dir(t), offset: freeOffset(t), binary: filepath.Join(built.dir, "up")}
	err := built.err
	if err == nil { // where up finds it up to date; by another process, as one that is forked meanwhile would keep a file of ours open, which then is busy
		var out []byte
		if out, err = exec.CommandContext(t.Context(), "cp", "-R", filepath.Join(built.dir, "bin"), b.dir).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err == nil {
		b.services = withStream(listServices(0), false, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, func() error {
			left := processes(t, b.dir)
			for pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return none(left)
		})
	})
	return b
}

var settled struct {
	sync.Once
	done bool
}

// settle puts empty databases into the company's folder: copies of those of one that was started and stopped, at a
// fraction of the work.
func (b *bench) settle(t *testing.T) {
	t.Helper()
	b.needSettled(t)
	found, err := filepath.Glob(filepath.Join(built.dir, "*", "data"))
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range found {
		copyFolder(t, filepath.Dir(data), b.dir)
	}
	copyFolder(t, filepath.Join(built.dir, "customers.erased"), b.dir) // without which customers does not start
}

// needSettled starts a company once for all tests, and stops it.
func (b *bench) needSettled(t *testing.T) {
	t.Helper()
	settled.Do(func() {
		first := *b
		first.dir = built.dir
		first.startKilled(t)
		up := first.startUp(t)
		up.says(t, "everything is up")
		first.allRun(t)
		if err := up.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := up.ends(t); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		first.nothingRuns(t)
		first.shutDown(t)
		settled.done = true
	})
	if !settled.done {
		t.Fatal("another test could not start and stop a company")
	}
}

// startKilled leaves what up leaves that is killed while it starts.
func (b *bench) startKilled(t *testing.T) {
	t.Helper()
	up := b.startUp(t)
	eventually(t, func() error {
		if unfinished, _ := filepath.Glob(filepath.Join(b.dir, "*", "initdb-*", "base")); len(unfinished) > 0 {
			return nil
		}
		if !up.running() {
			t.Fatal("up has ended")
		}
		return errors.New("no initdb runs")
	})
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.nothingRuns(t)
}

// copyFolder copies a folder into another, or under another name.
func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var offsets atomic.Int64

// freeOffset finds free ports for a company, below those that systems hand out by themselves.
func freeOffset(t *testing.T) int {
	t.Helper()
	for range 100 {
		offset := 2000 + 25*((os.Getpid()+int(offsets.Add(1)))%900)
		taken := false
		for port := mapPort; port < 8100 && !taken; port++ {
			taken = free(t.Context(), net.JoinHostPort("localhost", strconv.Itoa(port+offset))) != nil
		}
		if !taken {
			return offset
		}
	}
	t.Fatal("no free ports")
	return 0
}

// url is a service's.
func (b *bench) url(name string) string {
	i := slices.IndexFunc(b.services, func(s service) bool { return s.name == name })
	_, port, _ := net.SplitHostPort(b.services[i].addr)
	n, _ := strconv.Atoi(port)
	return fmt.Sprintf("http://localhost:%d", b.offset+n)
}

// process is one that a test has started.
type process struct {
	*exec.Cmd
	log    string // file
	exited chan struct{}
}

// start starts a process that is killed at the end of the whole test, and soon after if that is killed.
func (b *bench) start(t *testing.T, cmd *exec.Cmd, env ...string) *process {
	t.Helper()
	log, err := os.CreateTemp(b.all.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// Nobody listens on that port: a service that gets this URL fails.
	cmd.Env = append(append(os.Environ(), "DATABASE_URL=postgres://localhost:1/", "GOTMPDIR="+b.all.TempDir()), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, log.Name(), make(chan struct{})}
	b.started = append(b.started, p)
	go func() {
		_ = cmd.Wait()
		close(p.exited)
	}()
	b.all.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.exited
		if b.all.Failed() {
			b.all.Logf("%v: %v\n%s", cmd.Args, cmd.ProcessState, p.text(b.all))
		}
	})
	return p
}

func (b *bench) args(more ...string) []string {
	return append([]string{"--dir", b.dir, "--port-offset", strconv.Itoa(b.offset)}, more...)
}

// startUp runs the binary.
func (b *bench) startUp(t *testing.T, args ...string) *process {
	t.Helper()
	return b.start(t, exec.Command(b.binary, b.args(args...)...), "POLL_ORDERS=@every 1s", fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()))
}

// goRunUp does what the README says.
func (b *bench) goRunUp(t *testing.T, args ...string) *process {
	t.Helper()
	cmd := exec.Command("go", append([]string{"run", "./shared/cmd/up"}, b.args(args...)...)...)
	cmd.Dir = root(t)
	return b.start(t, cmd, "POLL_ORDERS=@every 1s")
}

func (p *process) text(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// says waits until the process has written the text.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	p.saysAfter(t, 0, text)
}

// saysAfter waits until the process has written one of the texts, after so many bytes.
func (p *process) saysAfter(t *testing.T, bytes int, texts ...string) {
	t.Helper()
	eventually(t, func() error {
		running := p.running()
		written := p.text(t)[bytes:]
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(written, text) }) {
			return nil
		}
		if !running {
			t.Fatalf("it ended, %v, without saying %q", p.ProcessState, texts)
		}
		return fmt.Errorf("it does not say %q", texts)
	})
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// ends waits for the end of the process and gives its exit code.
func (p *process) ends(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("%v runs %v after it should have ended", p.Args, patience)
	}
	return p.ProcessState.ExitCode()
}

// pid reads the process id that a file in the company's folder begins with.
func (b *bench) pid(t *testing.T, file ...string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, filepath.Join(file...)))
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

// socket is where the server in a service's folder listens.
func socket(dir string) (host, port string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return "", "", err
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 5 {
		return "", "", errors.New("the server is starting")
	}
	return lines[4], lines[3], nil
}

// connect opens a session at the server in a service's folder.
func connect(t *testing.T, dir, database string) (*pgx.Conn, error) {
	host, port, err := socket(dir)
	if err != nil {
		return nil, err
	}
	return pgx.Connect(t.Context(), fmt.Sprintf("user=postgres dbname=%s host='%s' port=%s sslmode=disable", database, host, port))
}

// nothingRuns waits until the last process of the company is gone.
func (b *bench) nothingRuns(t *testing.T) {
	t.Helper()
	eventually(t, func() error { return none(processes(t, b.dir)) })
}

func none(left map[int]string) error {
	if len(left) > 0 {
		return fmt.Errorf("still running: %v", left)
	}
	return nil
}

// processes are those that name the folder on their command line or, on Linux, run in it: a server's
// processes beside its first one can be told in no other way. What has ended and was not waited for does
// not count.
func processes(t *testing.T, dir string) map[int]string {
	t.Helper()
	found := map[int]string{}
	if runtime.GOOS != "linux" {
		out, err := exec.Command("ps", "-axo", "pid=,command=").Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
			if pid, err := strconv.Atoi(number); err == nil && strings.Contains(command, dir) {
				found[pid] = command
			}
		}
		return found
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // it may end meanwhile
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if strings.Contains(string(command), dir) || strings.HasPrefix(cwd, dir+"/") {
			found[pid] = strings.Join(strings.FieldsFunc(string(command), func(r rune) bool { return r == 0 }), " ")
		}
	}
	return found
}

// withDatabase are all services but the mail sink.
func (b *bench) withDatabase() []service {
	return slices.DeleteFunc(slices.Clone(b.services), func(s service) bool { return s.name == sink })
}

// allRun checks that the company is complete, and that processes would see what is left of it: up, and
// for each service itself and its server.
func (b *bench) allRun(t *testing.T) {
	t.Helper()
	found := processes(t, b.dir)
	files := [][]string{{"up.lock"}}
	for _, s := range b.withDatabase() {
		files = append(files, []string{s.name, "lock"}, []string{s.name, "data", "postmaster.pid"})
	}
	for _, file := range files {
		if pid := b.pid(t, file...); found[pid] == "" {
			t.Errorf("%v names process %d, which is not among %v", file, pid, found)
		}
	}
}

// shutDown checks that each server has ended in good order, and none of them by a kill.
func (b *bench) shutDown(t *testing.T) {
	t.Helper()
	for _, s := range b.withDatabase() {
		log, err := os.ReadFile(filepath.Join(b.dir, s.name, "postgres.log"))
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(log)), "database system is shut down") {
			t.Errorf("the log of the server of %s ends without a shutdown: %v\n%s", s.name, err, log)
		}
	}
}

func eventually(t *testing.T, condition func() error) {
	t.Helper()
	pause := 20 * time.Millisecond
	for deadline := time.Now().Add(patience); ; time.Sleep(pause) {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", patience, err)
		}
		pause = min(2*pause, 160*time.Millisecond)
	}
}
