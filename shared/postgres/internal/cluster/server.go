package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	superuser = "postgres"
	port      = "5432"
	pidName   = "postmaster.pid"

	startingUp         = "57P03" // SQLSTATE, or shutting down
	tooManyConnections = "53300"

	staleTimeout = 30 * time.Second // for the server of a process that has just ended
	startTimeout = 2 * time.Minute  // for crash recovery
)

// staleServer matches PostgreSQL's message while the server of an ended process is still shutting down.
var staleServer = regexp.MustCompile(`lock file ".*" already exists|pre-existing shared memory block`)

// initdb creates the data folder under a temporary name, so that an existing one is complete.
func (c *Cluster) initdb(ctx context.Context) error {
	unfinished, err := os.MkdirTemp(c.folder.home, "initdb-")
	if err != nil {
		return err
	}
	if err := claim(unfinished, c.folder.account); err != nil {
		return err
	}
	there, err := c.fromCache(ctx, unfinished)
	if err != nil {
		return err
	}
	if !there {
		if err := c.runInitdb(ctx, unfinished); err != nil {
			return err
		}
		_ = c.toCache(ctx, unfinished) // without it the next server only starts later
	}
	if err := os.Rename(unfinished, c.folder.data); err != nil {
		return err
	}
	syncFolder(c.folder.home)
	return nil
}

func (c *Cluster) runInitdb(ctx context.Context, data string) error {
	line := []string{filepath.Join(c.bin, "initdb"), "--pgdata=" + data, "--username=" + superuser,
		"--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C", "--no-instructions"}
	if c.opts.Volatile {
		line = append(line, "--no-sync")
	}
	p, err := c.start(syscall.SIGKILL, line...)
	if err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.cmd.Process.Kill()
		<-p.exited
		return ctx.Err()
	}
	if p.err != nil {
		return p.failure()
	}
	return nil
}

func (c *Cluster) removeLeftovers() {
	leftovers, _ := fs.Glob(os.DirFS(c.folder.home), "initdb-*")
	for _, leftover := range leftovers {
		if err := os.RemoveAll(filepath.Join(c.folder.home, leftover)); err != nil {
			c.opts.Logger.Warn("remains of an unfinished initdb not deleted", "error", err)
		}
	}
}

// launch starts the server and returns when it accepts connections. It waits for a server that is still shutting down
// in the same folder.
func (c *Cluster) launch(ctx context.Context) (*process, error) {
	deadline := time.Now().Add(staleTimeout)
	for {
		if pids := servers(c.folder.data); len(pids) > 0 {
			if time.Now().After(deadline) {
				return nil, errServer(c.folder.data, pids)
			}
			if err := pause(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err := c.releaseLocks(); err != nil {
			return nil, err
		}
		// Not SIGINT: after it, a server that recovers from a crash of its own may wait for ever.
		p, err := c.start(syscall.SIGQUIT, c.serverLine()...)
		if err != nil {
			return nil, err
		}
		err = c.ready(ctx, p)
		if err == nil {
			return p, nil
		}
		p.stop(true)
		if ctx.Err() != nil || !staleServer.MatchString(err.Error()) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w\nIf no PostgreSQL is running there, delete %s", err, c.pidFile())
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(200 * time.Millisecond):
		return nil
	}
}

// serverLine returns the server's command line, which overrides the configuration files in the data folder.
func (c *Cluster) serverLine() []string {
	settings := []string{
		"listen_addresses=", "port=" + port,
		"unix_socket_directories=" + c.folder.socket, "unix_socket_permissions=0700",
		"logging_collector=off", "log_destination=stderr",
		"log_min_messages=log", // errors of statements may quote rows, and are the client's to report
		"timezone=UTC", "log_timezone=UTC", "synchronous_commit=on",
	}
	if c.opts.Volatile {
		settings = append(settings, "fsync=off", "full_page_writes=off", "jit=off", "max_connections=500", "shared_buffers=32MB")
	} else {
		settings = append(settings, "fsync=on", "full_page_writes=on", "max_connections=60", "shared_buffers=64MB")
	}
	line := []string{filepath.Join(c.bin, "postgres"), "-D", c.folder.data}
	for _, setting := range settings {
		line = append(line, "-c", setting)
	}
	return line
}

func (c *Cluster) ready(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if owner(c.pidFile()) == p.cmd.Process.Pid {
			err := c.ping(ctx)
			if err == nil {
				return nil
			}
			if no, ok := errors.AsType[*pgconn.PgError](err); ok && no.Code != startingUp && no.Code != tooManyConnections {
				return fmt.Errorf("the data in %s is damaged: %w %s", c.folder.data, err, no.Detail)
			}
		}
		select {
		case <-p.exited:
			return p.failure()
		case <-ctx.Done():
			return fmt.Errorf("%w; its log:\n%s", ctx.Err(), p.logTail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *Cluster) pidFile() string { return filepath.Join(c.folder.data, pidName) }

// owner returns the process id of the server that has the data, possibly an older one that is still shutting down, or
// 0.
func owner(pidFile string) int {
	text, _ := os.ReadFile(pidFile)
	first, _, _ := strings.Cut(string(text), "\n")
	pid, _ := strconv.Atoi(first)
	return pid
}

func alive(pid int) bool { return pid > 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func (c *Cluster) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// dataVersion returns the major version of the data, or 0 if there is none yet. It returns an error if there was data
// before.
func (c *Cluster) dataVersion() (int, error) {
	path := filepath.Join(c.folder.data, "PG_VERSION")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, c.folder.mayBegin()
	} else if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || major < 1 {
		return 0, fmt.Errorf("%s is damaged, as it holds no version: restore %s from a backup", path, c.folder.data)
	}
	return major, nil
}
