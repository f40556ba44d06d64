package webserver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

func TestServeNamesAnAddressInUse(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	addr := ln.Addr().String()
	_, err := Listen(t.Context(), addr)
	if err == nil || !strings.HasPrefix(err.Error(), "address "+addr+" is in use by another process;") {
		t.Error(err)
	}
	_, err = Listen(t.Context(), "127.0.0.1:no-port")
	if err == nil || !strings.HasPrefix(err.Error(), "listen on 127.0.0.1:no-port: ") {
		t.Error(err)
	}
}

func TestGracefulStop(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	ln := listen(t)
	addr := ln.Addr().String()
	var logged logBuffer
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- ServeListener(ctx, ln, handler, slog.New(slog.NewTextHandler(&logged, nil))) }()
	silent, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr) // as browsers open them in advance
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + addr)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		answered <- string(body)
	}()
	<-entered
	stop()
	waitUntilRefused(t, addr)
	select {
	case err := <-served:
		t.Fatal("stopped while a request ran:", err)
	default:
	}
	_ = silent.SetReadDeadline(time.Now().Add(3 * time.Second)) // net/http's own patience is 5 s
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error("a connection without a request holds up the stop:", err)
	}
	close(release)
	if got := <-answered; got != "done" {
		t.Error("the running request got", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if log := logged.String(); !strings.Contains(log, "url=http://"+addr) {
		t.Error("log:", log)
	}
	again, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal("the address is not free:", err)
	}
	_ = again.Close()
}

// A server that stops waits for what its requests left to the background, tells it, and ends it after a while.
func TestBackgroundAtTheStop(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it needs timeouts")
	}
	for name, hangs := range map[string]bool{"a task that pauses": false, "a task that hangs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{})
			handler := http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				Background(req.Context(), func(ctx context.Context) {
					defer close(ended)
					<-web.Stopping(ctx)
					if ctx.Err() != nil {
						t.Error("its context ends with the request or at once with the stop:", ctx.Err())
					}
					if hangs {
						<-ctx.Done()
					}
				})
			})
			ln := listen(t)
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- ServeListener(ctx, ln, handler, slog.New(slog.DiscardHandler)) }()
			resp, err := http.Get("http://" + ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
			select {
			case <-ended:
			default:
				t.Error("it stopped while the task ran")
			}
		})
	}
}

// waitUntilRefused polls until addr takes no more connections.
func waitUntilRefused(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			return
		}
		_ = conn.Close()
	}
	t.Fatal("still listening")
}

func TestServeFailsWithItsListener(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	_ = ln.Close()
	if err := ServeListener(t.Context(), ln, http.NotFoundHandler(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
}

func TestURLOfAListener(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080",
		"0.0.0.0:8080":   "http://localhost:8080",
		"[::]:8080":      "http://localhost:8080",
		"[::1]:8080":     "http://[::1]:8080",
	} {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := urlOf("http", tcp); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}
