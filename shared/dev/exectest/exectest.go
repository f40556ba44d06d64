// Package exectest runs services in processes of their own, for tests.
package exectest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const (
	settings = "EXECTEST_SETTINGS" // of the service that a process of the test's program runs, as JSON
	patience = time.Minute         // for the start of a service
)

// A Process is the process of a service. It is killed at the end of the test, and ends with the test's process.
type Process struct {
	*exec.Cmd
	URL string // where it listens

	log   string
	ended chan struct{}
	err   error // of its end
}

// Main runs the service and exits, if [Self] has started this process. TestMain calls it first.
func Main(run func(ctx context.Context, env map[string]string, stdout io.Writer) error) {
	text, ok := os.LookupEnv(settings)
	if !ok {
		return
	}
	daemon.Main(func(ctx context.Context, _ []string, _ map[string]string, stdout io.Writer) error {
		var env map[string]string
		if err := json.Unmarshal([]byte(text), &env); err != nil {
			return err
		}
		return run(ctx, env, stdout)
	})
}

// Self starts the test's own program as a service, by [Main], with these settings, and waits until it listens. It
// skips the test under -short.
func Self(t testing.TB, env map[string]string) *Process {
	t.Helper()
	text, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), settings+"="+string(text))
	return Start(t, cmd)
}

var listening = regexp.MustCompile(`msg=listening url=(\S+)\n`)

// Start starts the command of a service and waits until it listens. It skips the test under -short.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	pgtest.Slow(t, "processes")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &Process{Cmd: cmd, log: log.Name(), ended: make(chan struct{})}
	p.Cmd.Env = append(p.Environ(), fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()))
	p.Stdout, p.Stderr = log, log
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.Log(t))
		}
	})
	deadline := time.After(patience)
	for {
		if at := listening.FindStringSubmatch(p.Log(t)); at != nil {
			p.URL = at[1]
			return p
		}
		select {
		case <-p.ended:
			t.Fatalf("%v has ended: %v", cmd.Args, p.err)
		case <-deadline:
			t.Fatalf("%v does not listen within %v", cmd.Args, patience)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Kill ends the process by SIGKILL.
func (p *Process) Kill() {
	_ = p.Process.Kill()
	<-p.ended
}

// Interrupt sends SIGINT, after which the service stops in good order.
func (p *Process) Interrupt(t testing.TB) {
	t.Helper()
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}

// Ends waits until the process has stopped in good order.
func (p *Process) Ends(t testing.TB) {
	t.Helper()
	if <-p.ended; p.err != nil {
		t.Error(p.err)
	}
}

// Log returns what the process has printed.
func (p *Process) Log(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Get returns the answer at a path of the service.
func (p *Process) Get(t testing.TB, path, accept string) (status int, body string) {
	t.Helper()
	return p.Ask(t, http.MethodGet, path, accept)
}

// Post sends an empty request to a path of the service, which has to succeed.
func (p *Process) Post(t testing.TB, path string) {
	t.Helper()
	if status, body := p.Ask(t, http.MethodPost, path, "application/json"); status/100 != 2 {
		t.Fatalf("%s: %d %s", path, status, body)
	}
}

// Ask sends an empty request to a path of the service, and returns the answer.
func (p *Process) Ask(t testing.TB, method, path, accept string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, p.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text strings.Builder
	if _, err := io.Copy(&text, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, text.String()
}
