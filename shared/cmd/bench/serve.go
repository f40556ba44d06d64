package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// serveArg makes the program one of the servers that it measures: serve KIND DATABASE_URL, or serve nginx FOLDER.
const serveArg = "serve"

const stopTimeout = 15 * time.Second

// serve serves until ctx ends. Its first line of output is its address.
func serve(ctx context.Context, kind, of string, stdout io.Writer) error {
	if kind == nginxKind {
		return serveNginx(ctx, of, stdout)
	}
	logger := slog.New(slog.DiscardHandler)
	db, err := postgres.Open(ctx, postgres.Config{URL: of, Name: "bench"})
	if err != nil {
		return err
	}
	defer db.Close()
	var handler http.Handler
	switch kind {
	case feedKind:
		log, err := publish.Open(ctx, db.Pool, logger)
		if err != nil {
			return err
		}
		defer log.Close()
		engine := web.New(logger)
		publish.NewSource(log, publish.Config{Name: "Bench", PublicURL: publicURL}, description).Route(engine)
		handler = engine
	case structsKind:
		gin.SetMode(gin.ReleaseMode)
		engine := gin.New()
		engine.GET("/orders", marshalOrders(db.Pool))
		handler = engine
	default:
		return daemon.Usagef("%s takes no %q", serveArg, kind)
	}
	ln, err := web.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, ln.Addr())
	return web.ServeListener(ctx, ln, handler, logger)
}

// An item is an order in a list, with what the feed says of it.
type item struct {
	ID       string       `json:"id"`
	URL      string       `json:"url"`
	Title    string       `json:"title"`
	HTML     string       `json:"content_html"`
	Modified time.Time    `json:"date_modified"`
	Position int64        `json:"position"`
	Order    *order.Order `json:"order"`
}

// marshalOrders reads 100 orders into structs and marshals them, as a plain handler does.
func marshalOrders(pool *pgxpool.Pool) gin.HandlerFunc {
	return func(c *gin.Context) {
		after, _ := strconv.ParseInt(c.Query("after"), 10, 64)
		rows, err := pool.Query(c.Request.Context(), `
			select id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at
			  from orders order by id limit 100 offset $1`, after)
		if err != nil {
			_ = c.AbortWithError(http.StatusInternalServerError, err)
			return
		}
		items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (item, error) {
			o := new(order.Order)
			err := row.Scan(&o.ID, &o.Version, &o.Status, &o.CustomerID, &o.Lines, &o.TotalCents, &o.Currency, &o.PlacedAt, &o.UpdatedAt)
			after++
			title, html := words(o)
			return item{"urn:uuid:" + o.ID.String(), publicURL + "/orders/" + o.ID.String(), title, html, o.UpdatedAt, after, o}, err
		})
		var body []byte
		if err == nil {
			body, err = json.Marshal(gin.H{"title": description.Title, "description": description.Text, "items": items})
		}
		if err != nil {
			_ = c.AbortWithError(http.StatusInternalServerError, err)
			return
		}
		c.Header("Content-Length", strconv.Itoa(len(body)))
		c.Data(http.StatusOK, "application/json", body)
	}
}

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
	stderr bytes.Buffer
}

// startServer starts this program as a server on one core, and returns when it answers.
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
	s.cmd.Env = append(s.cmd.Env, "GOMAXPROCS=1", fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()))
	stdout, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.cancel()
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
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
	_ = s.cmd.Wait() // the exit code says it
	state := s.cmd.ProcessState
	if !state.Success() {
		return 0, fmt.Errorf("the server ended with %v\n%s", state, s.stderr.Bytes())
	}
	return state.UserTime() + state.SystemTime(), nil
}
