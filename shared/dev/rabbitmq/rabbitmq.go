// Package rabbitmq runs a private RabbitMQ from the machine's binaries, for development, tests and benchmarks: on
// loopback only, with its data in its own folder, and only for the life of the process that started it.
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/edison-cars/data-feeds/shared/dev/freeport"
)

const (
	startTimeout = 5 * time.Minute // a machine that is busy needs minutes
	stopTimeout  = 10 * time.Second
)

// ErrMissing is returned by Find if RabbitMQ is not installed.
var ErrMissing = errors.New("RabbitMQ is not installed: install it with `apt-get install rabbitmq-server` (Debian, Ubuntu) or `brew install rabbitmq` (macOS)")

// Binaries are the programs of RabbitMQ and Erlang.
type Binaries struct {
	Version           string // "RabbitMQ 3.10.8", or "RabbitMQ" if the version is unknown
	server, ctl, epmd string
}

var versioned = regexp.MustCompile(`rabbitmq_server-([\d.]+)`)

// Find returns ErrMissing if RabbitMQ, or the epmd that it needs, is missing.
func Find() (*Binaries, error) {
	// Debian's programs in PATH only run as root, and switch to their own user.
	b := &Binaries{
		Version: "RabbitMQ", epmd: lookPath("epmd"),
		server: lookPath("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"), ctl: lookPath("/usr/lib/rabbitmq/bin/rabbitmqctl", "rabbitmqctl"),
	}
	if b.server == "" || b.ctl == "" || b.epmd == "" {
		return nil, ErrMissing
	}
	if file, err := filepath.EvalSymlinks(b.server); err == nil {
		if found := versioned.FindStringSubmatch(file); found != nil {
			b.Version += " " + found[1]
		}
	}
	return b, nil
}

func lookPath(names ...string) string {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// A Config configures a server.
type Config struct {
	Dir  string // of its data and log; created if missing
	Addr string // 127.0.0.1:port for AMQP; empty: a free one
}

// A Server is a running RabbitMQ.
type Server struct {
	Addr string // 127.0.0.1:port
	URL  string // for AMQP 0-9-1

	*folder
	env   []string
	ctl   string
	group *group
	node  *child
	epmd  *child // or nil if a cluster has it
}

// Start returns when the server accepts connections. The caller ends it with Stop or Kill.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	return start(ctx, cfg, "edison@localhost", nil)
}

// start starts a node, of a cluster unless that is nil.
func start(ctx context.Context, cfg Config, name string, of *Cluster) (_ *Server, err error) {
	found, err := Find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if cfg.Addr == "" {
		if cfg.Addr, err = freeport.Addr(ctx); err != nil {
			return nil, err
		}
	}
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil || host != "127.0.0.1" && host != "localhost" {
		return nil, fmt.Errorf("RabbitMQ listens at 127.0.0.1:port alone, not at %q", cfg.Addr)
	}
	s := &Server{Addr: net.JoinHostPort("127.0.0.1", port), ctl: found.ctl}
	s.URL = "amqp://guest:guest@" + s.Addr + "/"
	if s.folder, err = openFolder(cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Kill()
		}
	}()
	if s.group, err = newGroup(); err != nil {
		return nil, err
	}
	var epmdAddr string
	if of != nil {
		epmdAddr = of.epmdAddr
		err = of.admit(s.dir, name)
	} else {
		s.epmd, epmdAddr, err = startEpmd(ctx, s.folder, s.group, found.epmd)
	}
	if err != nil {
		return nil, err
	}
	if s.env, err = s.environ(ctx, name, port, epmdAddr); err != nil {
		return nil, err
	}
	if s.node, err = s.group.start(s.env, s.log, found.server); err != nil {
		return nil, err
	}
	return s, s.listens(ctx, s.node, s.Addr)
}

// startEpmd starts Erlang's name server. Otherwise Erlang starts one that outlives all.
func startEpmd(ctx context.Context, f *folder, g *group, path string) (epmd *child, addr string, err error) {
	if addr, err = freeport.Addr(ctx); err != nil {
		return nil, "", err
	}
	_, port, _ := net.SplitHostPort(addr)
	if epmd, err = g.start([]string{"HOME=" + f.dir}, f.log, path, "-port", port, "-address", "127.0.0.1"); err != nil {
		return nil, "", err
	}
	return epmd, addr, f.listens(ctx, epmd, addr)
}

// environ returns the complete environment of RabbitMQ's programs, without the machine's own configuration.
func (s *Server) environ(ctx context.Context, name, port, epmdAddr string) ([]string, error) {
	distAddr, err := freeport.Addr(ctx)
	if err != nil {
		return nil, err
	}
	_, epmdPort, _ := net.SplitHostPort(epmdAddr)
	_, distPort, _ := net.SplitHostPort(distAddr)
	plugins := filepath.Join(s.dir, "plugins")
	if err := os.WriteFile(plugins, []byte("[].\n"), 0o644); err != nil {
		return nil, err
	}
	return []string{
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "HOME=" + s.dir, "ERL_EPMD_PORT=" + epmdPort,
		"RABBITMQ_NODENAME=" + name, "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", "RABBITMQ_NODE_PORT=" + port, "RABBITMQ_DIST_PORT=" + distPort,
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(s.dir, "data"), "RABBITMQ_LOG_BASE=" + filepath.Join(s.dir, "log"), "RABBITMQ_LOGS=-",
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + plugins, "RABBITMQ_PID_FILE=" + filepath.Join(s.dir, "pid"), "RABBITMQ_CONF_ENV_FILE=" + os.DevNull,
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(s.dir, "rabbitmq"), "RABBITMQ_ADVANCED_CONFIG_FILE=" + filepath.Join(s.dir, "advanced"),
	}, nil
}

// Exited is closed when the server has ended.
func (s *Server) Exited() <-chan struct{} { return s.node.exited }

// Failure returns why the server ended by itself.
func (s *Server) Failure() error { return s.failure(s.node) }

// Stop stops the server cleanly, which takes seconds, and returns when it is gone.
func (s *Server) Stop() {
	_ = s.node.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.node.exited:
	case <-time.After(stopTimeout):
	}
	s.Kill()
}

// Kill sends SIGKILL to all processes of the server. Confirmed messages remain in the folder.
func (s *Server) Kill() {
	if s.group != nil {
		s.group.kill()
	}
	for _, c := range []*child{s.node, s.epmd} {
		if c != nil {
			<-c.exited
		}
	}
	s.close()
}

// Signal sends a signal to all processes of the server. SIGSTOP makes it hang.
func (s *Server) Signal(sig syscall.Signal) error {
	return syscall.Kill(-s.group.leader.Process.Pid, sig)
}

// Ctl runs rabbitmqctl.
func (s *Server) Ctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.ctl, args...)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %q: %w\n%s", args, err, out)
	}
	return string(out), nil
}
