package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

var rabbitVersion = regexp.MustCompile(`rabbitmq_server-([\d.]+)`)

// findRabbit gives nil where there is none, or no epmd, which Erlang wants beside it.
func findRabbit() *program {
	// Debian's program in the PATH takes nobody but root, and changes to a user of its own.
	path := lookPath("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
	if path == "" || lookPath("epmd") == "" {
		return nil
	}
	version := "RabbitMQ"
	if file, err := filepath.EvalSymlinks(path); err == nil {
		if found := rabbitVersion.FindStringSubmatch(file); found != nil {
			version += " " + found[1]
		}
	}
	return &program{path, version}
}

// serveRabbit runs a broker and an epmd as this process's children, on ports and in a folder of their own.
func serveRabbit(ctx context.Context, dir string, stdout io.Writer) error {
	rabbit := findRabbit()
	if rabbit == nil {
		return errors.New("no rabbitmq-server")
	}
	var addrs, ports [3]string // of AMQP, of epmd, and for other nodes
	for i := range addrs {
		var err error
		if addrs[i], err = freeAddr(ctx); err != nil {
			return err
		}
		_, ports[i], _ = net.SplitHostPort(addrs[i])
	}
	plugins := filepath.Join(dir, "plugins")
	if err := os.WriteFile(plugins, nil, 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	env := []string{
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "HOME=" + dir, "ERL_EPMD_PORT=" + ports[1],
		"RABBITMQ_NODENAME=bench@localhost", "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", "RABBITMQ_NODE_PORT=" + ports[0], "RABBITMQ_DIST_PORT=" + ports[2],
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "data"), "RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"), "RABBITMQ_LOGS=-",
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + plugins, "RABBITMQ_PID_FILE=" + filepath.Join(dir, "pid"), "RABBITMQ_CONF_ENV_FILE=" + os.DevNull,
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(dir, "rabbitmq"), "RABBITMQ_ADVANCED_CONFIG_FILE=" + filepath.Join(dir, "advanced"),
	}
	epmd, err := startChild(ctx, env, "epmd", "-port", ports[1], "-address", "127.0.0.1")
	if err != nil {
		cancel()
		return err
	}
	defer epmd.wait()
	defer cancel()
	if err := epmd.listens(ctx, addrs[1]); err != nil { // else Erlang starts one that outlives everybody
		return err
	}
	node, err := startChild(ctx, env, rabbit.path)
	if err != nil {
		return err
	}
	defer node.wait()
	defer cancel()
	if err := node.listens(ctx, addrs[0]); err != nil {
		return err
	}
	fmt.Fprintln(stdout, addrs[0])
	select {
	case <-ctx.Done():
		return nil
	case <-node.exited:
		return node.failure()
	}
}

// A child is a process whose end, with all that it started, is that of a context. Nobody wants its data.
type child struct {
	cmd    *exec.Cmd
	log    bytes.Buffer
	exited chan struct{}
}

func startChild(ctx context.Context, env []string, name string, args ...string) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, name, args...), exited: make(chan struct{})}
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr, c.cmd.WaitDelay = env, &c.log, &c.log, stopTimeout
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.Cancel = func() error { return syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

func (c *child) wait() { <-c.exited }

func (c *child) failure() error {
	return fmt.Errorf("%s ended with %v\n%s", c.cmd.Path, c.cmd.ProcessState, c.log.Bytes())
}

// listens returns when the child takes connections there.
func (c *child) listens(ctx context.Context, addr string) error {
	for !answers(ctx, addr) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.exited:
			return c.failure()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}
