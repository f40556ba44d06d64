package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A process is a relay in a process of its own.
type process struct {
	*exec.Cmd
	log, url string
	reaped   sync.Once
}

var listening = regexp.MustCompile(`msg=listening url=(\S+)`)

// relay starts one of the feed's to the broker at url.
func (s *source) relay(t *testing.T, db *pgxpool.Pool, url string, more map[string]string) *process {
	t.Helper()
	variable := strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
	set := map[string]string{
		"ADDR": "127.0.0.1:0", "DATABASE_URL": pgtest.URL(db), "AMQP_URL": url, "PAGE_SIZE": "100",
		"FEED_URL_" + variable: s.url, "POLL_" + variable: "@every 1s",
	}
	maps.Copy(set, more)
	env, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &process{Cmd: exec.Command(exe), log: log.Name()}
	p.Env = append(os.Environ(), processEnv+"="+string(env), fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()))
	p.Stdout, p.Stderr = log, log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Log(p.text(t))
		}
		if strings.Contains(p.text(t), "hunter2") {
			t.Error("the log says the password")
		}
	})
	eventually(t, "the relay listens", func() bool { return listening.MatchString(p.text(t)) })
	p.url = listening.FindStringSubmatch(p.text(t))[1]
	return p
}

// kill is SIGKILL.
func (p *process) kill() {
	p.reaped.Do(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
	})
}

// interrupt is SIGINT, after which it ends in good order.
func (p *process) interrupt(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.reaped.Do(func() {
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func (p *process) text(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (p *process) get(t testing.TB, path, accept string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	return do(t, req)
}

func (p *process) post(t testing.TB, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	if status, body := do(t, req); status/100 != 2 {
		t.Fatalf("%s: %d %s", path, status, body)
	}
}

func do(t testing.TB, req *http.Request) (status int, body string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// stream is what the API says of the only one.
func (p *process) stream(t testing.TB) view {
	t.Helper()
	var o overview
	if _, body := p.get(t, "/api/relay", "application/json"); json.Unmarshal([]byte(body), &o) != nil || len(o.Streams) != 1 {
		t.Fatal(body)
	}
	return o.Streams[0]
}

// metric is the value of one of the stream's.
func (p *process) metric(t testing.TB, name string) (value float64) {
	t.Helper()
	_, body := p.get(t, "/metrics", "")
	found := regexp.MustCompile(`(?m)^` + name + `\{feed="[^"]+"\} (\S+)$`).FindStringSubmatch(body)
	if found == nil {
		t.Fatalf("no metric %s", name)
	}
	if _, err := fmt.Sscan(found[1], &value); err != nil {
		t.Fatal(err)
	}
	return value
}
