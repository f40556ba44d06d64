package rabbitmq

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

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
