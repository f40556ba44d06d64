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

	"github.com/edison-cars/data-feeds/shared/web"
)

// A program is one that is installed here.
type program struct{ path, version string }

// findNginx gives nil where there is none.
func findNginx(ctx context.Context) (*program, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} { // the folder is not in everybody's PATH
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, path, "-v").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s -v: %w: %s", path, err, out)
		}
		_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "nginx version: ")
		return &program{path, version}, nil
	}
	return nil, nil
}

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
	server { listen %[2]s; root %[1]s/www; }
}
`

// serveNginx runs nginx on dir/www as this process's child, so that it ends with it and its CPU time counts as this process's.
func serveNginx(ctx context.Context, dir string, stdout io.Writer) error {
	nginx, err := findNginx(ctx)
	if err != nil || nginx == nil {
		return errors.Join(errors.New("no nginx"), err)
	}
	ln, err := web.Listen(ctx, "127.0.0.1:0") // to find a free port
	if err != nil {
		return err
	}
	addr := ln.Addr().String()
	ln.Close()
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, addr), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, nginx.path, "-p", dir, "-c", conf, "-e", "stderr", "-g", "daemon off;")
	terminate(cmd)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr); err == nil {
			conn.Close()
			break
		}
		select {
		case err := <-exited:
			return fmt.Errorf("nginx ended: %w\n%s", err, log.Bytes())
		case <-time.After(5 * time.Millisecond):
		}
	}
	fmt.Fprintln(stdout, addr)
	err = <-exited
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("nginx ended: %w\n%s", err, log.Bytes())
}
