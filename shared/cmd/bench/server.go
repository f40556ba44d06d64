package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

// terminate lets the end of the command's context end it in good order.
func terminate(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
}

// A server is a process that serves.
type server struct {
	addr   string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	ended  chan struct{}
	stderr bytes.Buffer
}

// startServer starts this program as a server, and returns when it answers. Those that are
// measured by the CPU time of a request run on one core.
func startServer(ctx context.Context, env map[string]string, kind, of string) (_ *server, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{}
	ctx, s.cancel = context.WithCancel(ctx)
	s.cmd = exec.CommandContext(ctx, self, serveArg, kind, of)
	terminate(s.cmd)
	s.cmd.Stderr = &s.stderr
	for name, value := range env {
		s.cmd.Env = append(s.cmd.Env, name+"="+value)
	}
	if kind == feedKind || kind == nginxKind || kind == structsKind {
		s.cmd.Env = append(s.cmd.Env, "GOMAXPROCS=1")
	}
	s.cmd.Env = append(s.cmd.Env, fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()))
	stdout, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.cancel()
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	s.ended = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // the exit code says it
		close(s.ended)
	}()
	if err != nil {
		_, stopErr := s.stop()
		return nil, fmt.Errorf("the %s server does not start: %w", kind, errors.Join(err, stopErr))
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

// stop ends the server and gives the CPU time of its whole life, that of its children included.
func (s *server) stop() (time.Duration, error) {
	s.cancel()
	<-s.ended
	state := s.cmd.ProcessState
	if !state.Success() {
		return 0, fmt.Errorf("the server ended with %v\n%s", state, s.stderr.Bytes())
	}
	return state.UserTime() + state.SystemTime(), nil
}
