package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

const (
	gateScript     = `read -r go && exec "$@" </dev/null`
	watchdogScript = `read -r released || kill -s "$1" "$2"`
)

// startWatched starts a program and a watchdog beside it: a shell that reads from a pipe that only this process can
// write to, and sends the signal death when the pipe closes without a word. The program waits at a gate, a second such
// pipe, until its watchdog runs.
func (c *Cluster) startWatched(death syscall.Signal, log *os.File, line ...string) (cmd *exec.Cmd, ended <-chan error, err error) {
	cmd = c.command(append([]string{"/bin/sh", "-c", gateScript, "sh"}, line...)...)
	cmd.Stdout, cmd.Stderr = log, log
	gate, gated, err := startReading(cmd)
	if err != nil {
		return nil, nil, err
	}
	defer gate.Close()
	signal := map[syscall.Signal]string{syscall.SIGQUIT: "QUIT", syscall.SIGKILL: "KILL"}[death]
	dog := c.command("/bin/sh", "-c", watchdogScript, "sh", signal, strconv.Itoa(cmd.Process.Pid))
	leash, dogEnded, err := startReading(dog)
	if err != nil {
		gate.Close()
		<-gated //nolint:errcheck // the gate is closed: it ends without starting the program
		return nil, nil, fmt.Errorf("start the watchdog: %w", err)
	}
	released := make(chan error, 1)
	go func() {
		err := <-gated
		fmt.Fprintln(leash, "released")
		leash.Close()
		<-dogEnded //nolint:errcheck // it holds no resources any more
		released <- err
	}()
	// Without the word, the program ends with a message.
	fmt.Fprintln(gate, "go")
	return cmd, released, nil
}

// startReading starts cmd with its input from a pipe, and returns the pipe's other end.
func startReading(cmd *exec.Cmd) (pipe *os.File, ended <-chan error, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	cmd.Stdin = r
	if ended, err = startOnThread(cmd); err != nil {
		w.Close()
		return nil, nil, err
	}
	return w, ended, nil
}
