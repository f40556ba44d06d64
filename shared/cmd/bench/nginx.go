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
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/deploy/cache"
	"github.com/edison-cars/data-feeds/shared/dev/freeport"
)

// A program is one that is installed here.
type program struct{ path, version string }

func findNginx(ctx context.Context) (*program, error) {
	path := lookPath("nginx", "/usr/sbin/nginx") // the folder is not in everybody's PATH
	if path == "" {
		return nil, nil
	}
	out, err := exec.CommandContext(ctx, path, "-v").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s -v: %w: %s", path, err, out)
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "nginx version: ")
	return &program{path, version}, nil
}

// lookPath returns the path of the first program that is installed, or an empty string if none is.
func lookPath(names ...string) string {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

const noNginx = "nginx is left out: it is not installed here (on Debian: apt-get install nginx)"

const nginxConf = `
worker_processes 1;
pid %[1]s/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000000;
	open_file_cache max=100;
	gzip_static on;
	types { application/feed+json json; application/atom+xml atom; }
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	%[3]s
	server { listen %[2]s; %[4]s }
}
`

// Directives by the kind of server, in the block http and in the block server.
const (
	nginxFiles = `root %[1]s/www;`
	nginxZone  = `proxy_cache_path %[1]s/cache keys_zone=pages:10m max_size=4g inactive=1h use_temp_path=off;`
	nginxProxy = `location / { proxy_pass http://%[2]s; proxy_cache pages; proxy_http_version 1.1; proxy_set_header Connection ""; }`
)

// serveNginx runs nginx as this process's child, so that it ends with it and its CPU time counts as this process's. It
// serves the files in dir/www, or, where there is an upstream, its answers, as a shared cache.
func serveNginx(ctx context.Context, dir, upstream string, stdout io.Writer) error {
	nginx, err := findNginx(ctx)
	if err != nil || nginx == nil {
		return errors.Join(errors.New("no nginx"), err)
	}
	addr, err := freeport.Addr(ctx)
	if err != nil {
		return err
	}
	zone, serving := "", fmt.Sprintf(nginxFiles, dir)
	if upstream != "" {
		zone, serving = fmt.Sprintf(nginxZone, dir), fmt.Sprintf(nginxProxy, dir, upstream)
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, addr, zone, serving), 0o644); err != nil {
		return err
	}
	return runServer(ctx, addr, []string{nginx.path, "-p", dir, "-c", conf, "-e", "stderr", "-g", "daemon off;"}, stdout, terminate)
}

// serveCache runs the program of a cache tier in front of the upstream, as [serveNginx] does.
func serveCache(ctx context.Context, kind cache.Kind, dir, upstream string, stdout io.Writer) error {
	addr, err := freeport.Addr(ctx)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return err
	}
	command, err := kind.Command(dir, addr, upstream)
	if err != nil {
		return err
	}
	return runServer(ctx, addr, command, stdout, terminate)
}

// runServer runs the command of a server until ctx ends, and writes its address once it listens there. prepare says how
// the command runs and ends.
func runServer(ctx context.Context, addr string, command []string, stdout io.Writer, prepare func(*exec.Cmd)) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	name := filepath.Base(command[0])
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	prepare(cmd)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for !answers(ctx, addr) {
		select {
		case err = <-exited:
			return fmt.Errorf("%s ended: %w\n%s", name, err, log.Bytes())
		case <-time.After(5 * time.Millisecond):
		}
	}
	fmt.Fprintln(stdout, addr)
	if err = <-exited; ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s ended: %w\n%s", name, err, log.Bytes())
}

// answers reports whether a server listens on host:port, or on the socket of that path.
func answers(ctx context.Context, addr string) bool {
	network := "tcp"
	if filepath.IsAbs(addr) {
		network = "unix"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		conn.Close()
	}
	return err == nil
}
