package rabbitmq

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

type folder struct {
	dir  string // absolute
	lock *daemon.LockedFile
	log  *os.File
}

func openFolder(dir string) (_ *folder, err error) {
	f := new(folder)
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err = os.MkdirAll(f.dir, 0o755); err != nil {
		return nil, err
	}
	if f.lock, err = daemon.Lock(filepath.Join(f.dir, "lock")); err != nil {
		return nil, err
	}
	f.log, err = os.Create(filepath.Join(f.dir, "rabbitmq.log"))
	return f, err
}

func (f *folder) close() {
	if f.lock != nil {
		f.lock.Close()
	}
	if f.log != nil {
		f.log.Close()
	}
}

// leashScript reads from a pipe that only this process can write to. When the pipe closes, it kills its process group.
const leashScript = `read -r nothing; kill -s KILL 0`

// A group is a process group that ends with this process, even after SIGKILL.
type group struct {
	leader *exec.Cmd
	leash  io.Closer
}

func newGroup() (*group, error) {
	leader := exec.Command("/bin/sh", "-c", leashScript)
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	leash, err := leader.StdinPipe()
	if err == nil {
		err = leader.Start()
	}
	return &group{leader, leash}, err
}

func (g *group) kill() {
	if g.leader.ProcessState == nil {
		_ = syscall.Kill(-g.leader.Process.Pid, syscall.SIGKILL)
		g.leash.Close()
		_ = g.leader.Wait()
	}
}

type child struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func (g *group) start(env []string, log *os.File, name string, args ...string) (*child, error) {
	c := &child{cmd: exec.Command(name, args...), exited: make(chan struct{})}
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = env, log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: g.leader.Process.Pid}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// listens waits until c, or a child of it, listens at addr.
func (f *folder) listens(ctx context.Context, c *child, addr string) error {
	for {
		if conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr); err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start RabbitMQ: %w; its log:\n%s", ctx.Err(), f.tail())
		case <-c.exited:
			return fmt.Errorf("start RabbitMQ: %w", f.failure(c))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// failure returns why c ended by itself.
func (f *folder) failure(c *child) error {
	return fmt.Errorf("%s ended with %v; its log:\n%s", c.cmd.Path, c.cmd.ProcessState, f.tail())
}

const maxTail = 2000 // bytes of the log in errors

func (f *folder) tail() string {
	text, _ := os.ReadFile(f.log.Name())
	return strings.TrimSpace(string(text[max(0, len(text)-maxTail):]))
}
