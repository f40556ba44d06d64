package subscribe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	osexec "os/exec" // exec is SQL here
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const cuttingNginx = `
worker_processes 1;
pid %[1]s/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s;
		location / {
			proxy_pass http://%[3]s;
			proxy_http_version 1.1;
			proxy_read_timeout 2s;
		}
	}
}
`

// startNginx starts one that answers 504 where the source at origin is silent for two seconds. It ends with this
// process, however that ends.
func startNginx(t *testing.T, origin string) (url string) {
	t.Helper()
	nginx, err := osexec.LookPath("nginx")
	if err != nil {
		nginx, err = osexec.LookPath("/usr/sbin/nginx") // the folder is not in everybody's PATH
	}
	if err != nil {
		t.Skip("needs nginx (Debian: apt-get install nginx)")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := pgtest.Dir(t)
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, cuttingNginx, dir, ln.Addr(), origin), 0o644); err != nil {
		t.Fatal(err)
	}
	ln.Close()
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
	eventually(t, "nginx listens", func() bool {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "http://" + ln.Addr().String()
}

// startForwarder passes connections on to origin, and resets one over which nothing came back for two seconds.
func startForwarder(t *testing.T, origin string) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	forward := func(near net.Conn) {
		defer near.Close()
		far, err := net.Dial("tcp", origin)
		if err != nil {
			return
		}
		defer far.Close()
		go func() {
			_, _ = io.Copy(far, near)
			far.Close()
		}()
		buffer := make([]byte, 32<<10)
		for {
			_ = far.SetReadDeadline(time.Now().Add(2 * time.Second))
			n, err := far.Read(buffer)
			if err != nil {
				_ = near.(*net.TCPConn).SetLinger(0) // a reset
				return
			}
			if _, err := near.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			go forward(near)
		}
	}()
	return "http://" + ln.Addr().String()
}

// What is on the way to the source cuts requests off that wait: they wait for less, the copy stays fresh, and nobody is
// told of a failure that is none; of a source that dies they are.
func TestRequestsThatWaitAreCutOff(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	for name, start := range map[string]func(*testing.T, string) string{"nginx": startNginx, "connections that are reset": startForwarder} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 3)
			s.URL = start(t, s.Listener.Addr().String())
			c := waiting(t, s)
			polls := func(outcome string) float64 { return testutil.ToFloat64(c.metrics.polls.WithLabelValues(outcome)) }
			fresh := func() {
				t.Helper()
				if shown := c.shows(); shown.AsOf != nil && (shown.State != Fresh || shown.LastError != nil || shown.FailingSince != nil) {
					t.Fatalf("it shows %+v", shown)
				}
			}
			eventually(t, "a request is cut off", func() bool { fresh(); return polls("cut") > 0 })
			eventually(t, "the next ones wait for less", func() bool { fresh(); return c.shows().Detail.Cut == "1s" })
			cut, good := polls("cut"), polls("succeeded")
			eventually(t, "they are not cut off", func() bool { fresh(); return polls("succeeded") >= good+4 })
			if n := polls("cut"); n > cut {
				t.Errorf("%v were cut off, then %v", cut, n)
			}
			eventually(t, "a request waits", c.holds)
			s.put(t, 4, 4)
			eventually(t, "the news is there", func() bool { fresh(); return c.at() == 4 })
			if n := polls("failed") + polls("refused"); n > 0 {
				t.Errorf("%v polls failed", n)
			}
			s.Listener.Close()
			s.CloseClientConnections()
			eventually(t, "the source's death is noticed", func() bool { return c.shows().FailingSince != nil })
		})
	}
}

func TestCuts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, x := range []struct{ wait, took, want time.Duration }{
		{25 * time.Second, 5 * time.Second, 4 * time.Second},
		{4 * time.Second, 3900 * time.Millisecond, 3 * time.Second},
		{25 * time.Second, 24900 * time.Millisecond, 19 * time.Second},
		{25 * time.Second, 40 * time.Second, 24 * time.Second}, // silent for longer than it was to wait
		{25 * time.Second, 300 * time.Millisecond, 12 * time.Second},
		{2 * time.Second, 1200 * time.Millisecond, 0},
		{time.Second, 100 * time.Millisecond, 0},
	} {
		c := cuts{}.after(x.wait, x.took, now)
		if got := c.allowed(25*time.Second, now.Add(forgetCuts-1)); got != x.want {
			t.Errorf("%v of %v: then %v, not %v", x.took, x.wait, got, x.want)
		}
		if got := c.allowed(25*time.Second, now.Add(forgetCuts)); got != 25*time.Second {
			t.Errorf("%v of %v: after long %v", x.took, x.wait, got)
		}
	}
	steps, c, wait := 0, cuts{}, 25*time.Second
	for ; wait > 0; steps++ {
		c = c.after(wait, 0, now)
		wait = c.allowed(wait, now)
	}
	if steps > 6 {
		t.Errorf("where each is cut off at once, none waits after %d", steps)
	}
}

// What a source means is no cut.
func TestRefusedWhileWaiting(t *testing.T) {
	t.Parallel()
	c := offline(t, healthDatabase(t), 25*time.Second)
	for _, err := range []error{
		&feedclient.StatusError{Status: http.StatusTooManyRequests}, &feedclient.StatusError{Status: 503, RetryAfter: time.Minute},
		&feedclient.StatusError{Status: 403}, feed.ErrPage, feedclient.ErrDiverged,
	} {
		f := fetched{Request: feedclient.Request{Wait: 25 * time.Second}, err: err}
		if got := c.state.waitFailed(f, 5*time.Second, time.Now()); !errors.Is(got, err) || errors.Is(got, errCut) || c.shows().Detail.Cut != "" {
			t.Errorf("%v: %v, cut to %q", err, got, c.shows().Detail.Cut)
		}
	}
	// Where none waits, the schedule holds, until a longer one is tried again.
	now := time.Now()
	c.mustTune(t, fmt.Sprintf("0 0 1 %d *", now.AddDate(0, 6, -now.Day()).Month()), now) // half a year away
	c.state.cuts = cuts{last: now}
	c.succeed(t, now)
	if next := c.state.nextPoll; !next.Equal(now.Add(forgetCuts)) {
		t.Errorf("the next poll is at %v, %v from now", next, next.Sub(now))
	}
	if s := c.status(now); s.Detail.Held || s.Detail.Cut != "0s" || s.Cost.RequestsPerDay > 1 || !strings.Contains(s.Wait, "25s") {
		t.Errorf("it shows %+v", s)
	}
}
