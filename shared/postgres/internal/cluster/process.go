package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	logName    = "postgres.log"
	maxLogSize = 16 << 20 // bytes, checked when a process starts
	tailLines  = 12
)

type process struct {
	name     string
	cmd      *exec.Cmd
	log      string
	logStart int           // where this run begins in the log, in bytes
	exited   chan struct{} // closed when the process is gone; then err is set
	err      error
}

// start starts a program of PostgreSQL. It gets the signal death when this process ends.
func (c *Cluster) start(death syscall.Signal, line ...string) (*process, error) {
	p := &process{name: filepath.Base(line[0]), log: filepath.Join(c.folder.home, logName), exited: make(chan struct{})}
	log, err := c.openLog(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	p.logStart = int(info.Size())
	var ended <-chan error
	if kernelWatches && !c.opts.Watchdog {
		p.cmd = c.command(line...)
		p.cmd.Stdout, p.cmd.Stderr = log, log
		dieWithThread(p.cmd.SysProcAttr, death)
		ended, err = startOnThread(p.cmd)
	} else {
		p.cmd, ended, err = c.startWatched(death, log, line...)
	}
	if err != nil {
		return nil, err
	}
	go func() {
		p.err = <-ended
		close(p.exited)
	}()
	return p, nil
}

func (c *Cluster) openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLogSize {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err == nil && c.folder.account != nil {
		err = log.Chown(int(c.folder.account.Uid), int(c.folder.account.Gid))
	}
	return log, err
}

// command returns a program with the server's user, a process group of its own, which Ctrl-C in the terminal does not
// reach, and an environment without settings of PostgreSQL.
func (c *Cluster) command(line ...string) *exec.Cmd {
	cmd := exec.Command(line[0], line[1:]...)
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

// startOnThread starts cmd on a thread that lives until cmd has ended, as dieWithThread requires.
func startOnThread(cmd *exec.Cmd) (ended <-chan error, err error) {
	started, waited := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// A program that a shell starts in the background ignores SIGINT and SIGQUIT, and so do its children until they
		// set handlers. A signal that is handled here has its default effect in them.
		handled := make(chan os.Signal, 1)
		signal.Notify(handled, syscall.SIGINT, syscall.SIGQUIT)
		err := cmd.Start()
		signal.Stop(handled)
		started <- err
		if err == nil {
			waited <- cmd.Wait()
		}
	}()
	err = <-started
	return waited, err
}

// stop stops a server, ends its sessions, and returns when it is gone. Unless it is immediate, the server writes a
// checkpoint, so that the next start needs no recovery.
func (p *process) stop(immediate bool) {
	type step struct {
		signal  syscall.Signal
		timeout time.Duration
	}
	steps := []step{{syscall.SIGINT, 20 * time.Second}, {syscall.SIGQUIT, 5 * time.Second}}
	if immediate {
		steps = steps[1:]
	}
	for _, step := range steps {
		p.cmd.Process.Signal(step.signal) // an error means that it has ended
		select {
		case <-p.exited:
			return
		case <-time.After(step.timeout):
		}
	}
	p.cmd.Process.Kill()
	<-p.exited
}

func (p *process) failure() error {
	end := "exit status 0"
	if p.err != nil {
		end = p.err.Error()
	}
	return fmt.Errorf("%s ended with %s; its log:\n%s", p.name, end, p.logTail())
}

func (p *process) logTail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text[min(p.logStart, len(text)):])), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
