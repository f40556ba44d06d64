package feedhttp

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec" // exec is SQL here
	"path/filepath"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/webserver"

	"github.com/edison-cars/data-feeds/shared/publish"
)

// nginxConf makes a shared cache that keeps what the source says may be kept, by its Vary, and lets one request at a
// time fill a page.
const nginxConf = `
worker_processes 1;
pid %[1]s/nginx.pid;
error_log stderr;
events { worker_connections 2048; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	proxy_cache_path %[1]s/cache levels=1:2 keys_zone=feeds:1m;
	server {
		listen %[2]s;
		location / {
			proxy_pass http://%[3]s;
			proxy_http_version 1.1;
			proxy_cache feeds;
			proxy_cache_lock on;
			proxy_cache_revalidate on;
		}
	}
}
`

// startCache starts nginx as a shared cache in front of the source at origin, and gives the cache's URL. It ends with
// this process, however that ends.
func startCache(t *testing.T, origin string) string {
	t.Helper()
	nginx, err := osexec.LookPath("nginx")
	if err != nil {
		nginx, err = osexec.LookPath("/usr/sbin/nginx") // the folder is not in everybody's PATH
	}
	if err != nil {
		t.Skip("needs nginx (Debian: apt-get install nginx)")
	}
	dir, addr := pgtest.Dir(t), listen(t, "127.0.0.1:0")
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, addr.Addr(), origin), 0o644); err != nil {
		t.Fatal(err)
	}
	addr.Close()
	// The shell's input ends with this process, and nginx with the shell.
	cmd := osexec.Command("sh", "-c", `"$@" & read -r _; kill $! && wait $!`, "sh", nginx, "-p", dir, "-c", conf, "-e", "stderr", "-g", "daemon off;")
	var said bytes.Buffer
	cmd.Stderr = &said
	life, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		life.Close()
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("nginx: %v\n%s", err, said.String())
		}
	})
	waitFor(t, "nginx to listen", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "http://" + addr.Addr().String()
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := webserver.Listen(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// asked counts what reaches the source, by what it answers: "200 /feeds/things".
type asked struct {
	mu sync.Mutex
	n  map[string]int
}

func (a *asked) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &statusWriter{ResponseWriter: w, status: 200}
		h.ServeHTTP(answer, r)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.n[fmt.Sprint(answer.status, " ", r.URL)]++
	})
}

// take returns the counts and begins over.
func (a *asked) take() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.n
	a.n = map[string]int{}
	return n
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// A process is one of the source, on an address that another one can take over.
type process struct {
	addr  string
	pool  *pgxpool.Pool
	asked asked
	stop  func()
}

// start serves the feed on addr until the next one does, or the test ends.
func (p *process) start(t *testing.T, options Options) *publish.Log {
	t.Helper()
	l, err := publish.Open(t.Context(), p.pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(p.asked.count(New(l, options, description)))
	server.Listener.Close()
	server.Listener = listen(t, p.addr)
	server.Start()
	p.stop = sync.OnceFunc(func() {
		server.Close()
		l.Close()
	})
	t.Cleanup(p.stop)
	return l
}
