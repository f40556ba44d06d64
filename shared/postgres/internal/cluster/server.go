package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	logName    = "postgres.log"
	maxLogSize = 16 << 20 // bytes, at a start
	tailLines  = 12
)

// staleServer is what PostgreSQL says while the server of a process that ended is still going down.
var staleServer = regexp.MustCompile(`lock file ".*" already exists|pre-existing shared memory block`)

// server is one run of PostgreSQL's main process.
type server struct {
	cmd      *exec.Cmd
	data     string
	log      string
	logStart int64         // where in the log this run begins, in bytes
	exited   chan struct{} // closed when the process is gone; then err is set
	err      error
}

// initdb makes the data folder under another name first, so that one that is there is complete.
func (c *Cluster) initdb(ctx context.Context) error {
	leftovers, err := filepath.Glob(filepath.Join(c.folder.home, "initdb-*"))
	if err != nil {
		return err
	}
	for _, leftover := range leftovers {
		if err := os.RemoveAll(leftover); err != nil {
			c.opts.Logger.Warn("left-over of an unfinished initdb not deleted", "error", err)
		}
	}
	unfinished, err := os.MkdirTemp(c.folder.home, "initdb-")
	if err != nil {
		return err
	}
	if err := claim(unfinished, c.folder.account); err != nil {
		return err
	}
	args := []string{"--pgdata", unfinished, "--username", superuser, "--auth-local=trust", "--auth-host=reject",
		"--encoding=UTF8", "--locale=C", "--no-instructions"}
	if c.opts.Volatile {
		args = append(args, "--no-sync")
	}
	var out bytes.Buffer
	cmd := c.command(exec.CommandContext(ctx, filepath.Join(c.bin, "initdb"), args...))
	cmd.Stdout, cmd.Stderr = &out, &out
	dieWithThread(cmd.SysProcAttr, syscall.SIGKILL)
	exited, err := start(cmd)
	if err == nil {
		err = <-exited
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %s", err, lastLines(out.Bytes())), os.RemoveAll(unfinished))
	}
	return os.Rename(unfinished, c.folder.data)
}

// launch starts the server and returns when it takes connections. It waits for one that is still
// going down in the same folder.
func (c *Cluster) launch(ctx context.Context) (*server, error) {
	deadline := time.Now().Add(staleTimeout)
	for {
		s, err := c.spawn()
		if err != nil {
			return nil, err
		}
		err = s.ready(ctx, c.URL("postgres"))
		if err == nil {
			return s, nil
		}
		s.stop(true)
		if ctx.Err() != nil || !staleServer.MatchString(err.Error()) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w\nIf no PostgreSQL is running there, delete %s", err, filepath.Join(c.folder.data, "postmaster.pid"))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// spawn starts the server's process.
func (c *Cluster) spawn() (*server, error) {
	s := &server{data: c.folder.data, log: filepath.Join(c.folder.home, logName), exited: make(chan struct{})}
	if info, err := os.Stat(s.log); err == nil && info.Size() > maxLogSize {
		if err := os.Rename(s.log, s.log+".1"); err != nil {
			return nil, err
		}
	}
	log, err := os.OpenFile(s.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	s.logStart = info.Size()
	if c.folder.account != nil {
		if err := log.Chown(int(c.folder.account.Uid), int(c.folder.account.Gid)); err != nil {
			return nil, err
		}
	}
	line := append([]string{filepath.Join(c.bin, "postgres")}, c.arguments()...)
	if !c.opts.Watchdog && canDieWithThread {
		s.cmd = c.command(exec.Command(line[0], line[1:]...))
		s.cmd.Stdout, s.cmd.Stderr = log, log
		dieWithThread(s.cmd.SysProcAttr, syscall.SIGINT)
		exited, err := start(s.cmd)
		if err != nil {
			return nil, err
		}
		go s.wait(exited, func() {})
		return s, nil
	}
	var release func()
	var exited <-chan error
	s.cmd, exited, release, err = c.startWatched(line, log)
	if err != nil {
		return nil, err
	}
	go s.wait(exited, release)
	return s, nil
}

func (s *server) wait(exited <-chan error, release func()) {
	s.err = <-exited
	release()
	close(s.exited)
}

// arguments overrule the configuration files in the data folder.
func (c *Cluster) arguments() []string {
	args := []string{"-D", c.folder.data}
	settings := []string{
		"listen_addresses=", "port=" + port,
		"unix_socket_directories=" + c.folder.socket, "unix_socket_permissions=0700",
		"logging_collector=off", "log_destination=stderr",
		"timezone=UTC", "log_timezone=UTC", "synchronous_commit=on",
	}
	if c.opts.Volatile {
		settings = append(settings, "fsync=off", "full_page_writes=off",
			"max_connections=200", "shared_buffers=128MB")
	} else {
		settings = append(settings, "fsync=on", "full_page_writes=on",
			"max_connections=60", "shared_buffers=64MB")
	}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return args
}

// command gives cmd the server's user, a process group of its own, which a Ctrl-C in the terminal
// does not reach, and an environment that sets nothing for PostgreSQL.
func (c *Cluster) command(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = c.folder.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.folder.account}
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}

// ready returns when the server takes connections, or an error when it ends before.
func (s *server) ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if s.owns(s.data) && ping(ctx, url) == nil {
			return nil
		}
		select {
		case <-s.exited:
			return s.failure()
		case <-ctx.Done():
			return fmt.Errorf("%w; its log:\n%s", ctx.Err(), s.logTail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// owns tells this server from an older one that is still going down.
func (s *server) owns(data string) bool {
	text, _ := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	pid, _, _ := strings.Cut(string(text), "\n")
	return pid == strconv.Itoa(s.cmd.Process.Pid)
}

func ping(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// stop returns when the process is gone. It ends open sessions; unless it is to be immediate, the
// server also writes a checkpoint, so that the next start need not recover.
func (s *server) stop(immediate bool) {
	type step struct {
		signal  syscall.Signal
		timeout time.Duration
	}
	steps := []step{{syscall.SIGINT, 20 * time.Second}, {syscall.SIGQUIT, 5 * time.Second}}
	if immediate {
		steps = steps[1:]
	}
	for _, step := range steps {
		s.cmd.Process.Signal(step.signal) // an error means that it has ended
		select {
		case <-s.exited:
			return
		case <-time.After(step.timeout):
		}
	}
	s.cmd.Process.Kill()
	<-s.exited
}

// failure says how a server ended that was not told to.
func (s *server) failure() error {
	end := "exit status 0"
	if s.err != nil {
		end = s.err.Error()
	}
	return fmt.Errorf("PostgreSQL ended with %s; its log:\n%s", end, s.logTail())
}

func (s *server) logTail() string {
	f, err := os.Open(s.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(s.logStart, info.Size()-16<<10)
	text, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return err.Error()
	}
	return lastLines(text)
}

func lastLines(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
