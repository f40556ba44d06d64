package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
)

// start starts cmd on a thread that lives until cmd has ended, as dieWithThread needs, and returns
// where the end will be told.
func start(cmd *exec.Cmd) (<-chan error, error) {
	started, exited := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	err := <-started
	return exited, err
}

const (
	gate     = `read -r go && exec "$@" </dev/null`
	watchdog = `read -r released || kill -INT "$1"`
)

// startWatched starts the server with a watchdog beside it: a shell that reads from a pipe which
// only this process can write to, and stops the server when the pipe closes without a word. The
// server itself waits behind a gate, a second pipe, until its watchdog is there.
func (c *Cluster) startWatched(line []string, log *os.File) (_ *exec.Cmd, exited <-chan error, release func(), err error) {
	server := c.command(exec.Command("/bin/sh", append([]string{"-c", gate, "sh"}, line...)...))
	server.Stdout, server.Stderr = log, log
	open, exited, err := startReading(server)
	if err != nil {
		return nil, nil, nil, err
	}
	defer open.Close()
	dog := c.command(exec.Command("/bin/sh", "-c", watchdog, "sh", strconv.Itoa(server.Process.Pid)))
	leash, dogExited, err := startReading(dog)
	if err != nil {
		open.Close()
		<-exited
		return nil, nil, nil, fmt.Errorf("start the watchdog: %w", err)
	}
	release = func() {
		fmt.Fprintln(leash, "released")
		leash.Close()
		<-dogExited
	}
	if _, err := fmt.Fprintln(open, "go"); err != nil {
		open.Close()
		<-exited
		release()
		return nil, nil, nil, err
	}
	return server, exited, release, nil
}

// startReading starts cmd reading from a pipe, and returns the pipe's other end.
func startReading(cmd *exec.Cmd) (*os.File, <-chan error, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	cmd.Stdin = r
	exited, err := start(cmd)
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	return w, exited, nil
}
