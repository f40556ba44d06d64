package follow

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/webserver"
	"github.com/edison-cars/data-feeds/sql"
)

// The test binary is also the command.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_FOLLOW") != "" {
		daemon.Main(func(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
			return Run(ctx, args, env, stdout, os.Stderr)
		})
	}
	pgtest.Main(m)
}

// An origin is a real source, behind what may stand between it and its readers.
type origin struct {
	*httptest.Server
	log     *publish.Log
	entries []publish.Entry

	mu      sync.Mutex
	handler http.Handler
}

type thing struct {
	XMLName xml.Name `json:"-" xml:"https://edison-cars.example/ns/thing thing"`
	Name    string   `json:"name" xml:"name"`
}

// newLog returns an empty feed of things, and what serves it to the readers.
func newLog(t *testing.T, readers access.Settings) (*publish.Log, http.Handler) {
	t.Helper()
	pool, discard := pgtest.New(t, sql.Migrations("publish")), slog.New(slog.DiscardHandler)
	if _, err := pool.Exec(t.Context(), `select feed_create('things')`); err != nil {
		t.Fatal(err)
	}
	log, err := publish.Open(t.Context(), pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	engine := webserver.New(discard)
	rules, err := access.New(readers, access.Options{Service: "test", Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	engine.Use(rules.Identify(), rules.Reader())
	webserver.GET(engine, "/", func(c *gin.Context) { c.String(http.StatusOK, "Welcome") })
	webserver.GET(engine, "/news", func(c *gin.Context) {
		c.Data(http.StatusOK, feed.TypeJSONFeed, []byte(`{"version":"https://jsonfeed.org/version/1.1","title":"News","items":[]}`))
	})
	source := feedhttp.New(log, feedhttp.Options{Name: "Test", PublicURL: "http://source.example"}, feed.Description{
		Name: "things", Title: "Things", ID: "tag:edison-cars.example,2026:things",
		Show: func(e feed.Entry) (feed.Shown, error) {
			var v thing
			err := json.Unmarshal(e.Entity, &v)
			return feed.Shown{Title: v.Name, XML: &v}, err
		},
	})
	webserver.GET(engine, "/feeds/*path", gin.WrapH(source))
	return log, engine
}

// newOrigin returns one with n entries of n things.
func newOrigin(t *testing.T, n int, readers access.Settings) *origin {
	t.Helper()
	s := new(origin)
	s.log, s.handler = newLog(t, readers)
	s.serve(t, "127.0.0.1:0")
	s.fill(t, n)
	return s
}

func (s *origin) serve(t *testing.T, addr string) {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		h := s.handler
		s.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	t.Cleanup(s.kill)
}

// kill breaks all connections and stops listening.
func (s *origin) kill() {
	s.Listener.Close()
	s.CloseClientConnections()
	s.Close()
}

// put in front of the source what change makes of it.
func (s *origin) change(change func(http.Handler) http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = change(s.handler)
}

func (s *origin) feedURL() string { return s.URL + "/feeds/things" }

func (s *origin) publish(t *testing.T, entries ...publish.Entry) {
	t.Helper()
	err := s.log.InTx(context.Background(), func(tx *publish.Tx) error {
		tx.Append("things", entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.entries = append(s.entries, entries...)
}

func (s *origin) fill(t *testing.T, n int) {
	t.Helper()
	var entries []publish.Entry
	for range n {
		entries = append(entries, put(uuid.New(), 1))
	}
	s.publish(t, entries...)
}

func put(id uuid.UUID, version int64) publish.Entry {
	e := remove(id, version)
	e.Payload = fmt.Appendf(nil, `{ "name": "%s <&> %d" }`, id, version)
	return e
}

func remove(id uuid.UUID, version int64) publish.Entry {
	return publish.Entry{ID: id, Version: version, Updated: time.Date(2026, 11, 23, 8, 0, int(version), 123_000, time.UTC)}
}

// wantPrinted fails the test unless the lines are the entries of the source from position first on.
func (s *origin) wantPrinted(t *testing.T, printed string, first int, atom bool) (last line) {
	t.Helper()
	lines := strings.SplitAfter(printed, "\n")
	if len(lines) != len(s.entries)-first+2 || lines[len(lines)-1] != "" {
		t.Fatalf("%d lines, want %d whole ones:\n%s", len(lines)-1, len(s.entries)-first+1, printed)
	}
	for i, e := range s.entries[first-1:] {
		var l line
		if err := json.Unmarshal([]byte(lines[i]), &l); err != nil {
			t.Fatalf("%v: %s", err, lines[i])
		}
		if l.Position != int64(first+i) || l.ID != e.ID || l.Version != e.Version || !l.Updated.Equal(e.Updated) || l.Deleted != (e.Payload == nil) {
			t.Fatalf("line %d: %s", i, lines[i])
		}
		want := fmt.Sprintf(`"entity":{"name":"%s <&> %d"}}`, e.ID, e.Version)
		switch {
		case l.Deleted:
			want = `"id":"` + e.ID.String() + `"}`
		case atom:
			want = fmt.Sprintf(`"entity":"<thing xmlns=\"https://edison-cars.example/ns/thing\"><name>%s &lt;&amp;&gt; %d</name></thing>"}`, e.ID, e.Version)
		}
		if !strings.HasSuffix(lines[i], want+"\n") {
			t.Fatalf("line %d: %s\nends otherwise than %s", i, lines[i], want)
		}
		last = l
	}
	return last
}

// A journal can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// A process is the command as a user has it.
type process struct {
	*exec.Cmd
	out, err journal
	ended    chan struct{}
}

// start runs the command; its output goes to stdout, or to p.out if that is nil.
func start(t *testing.T, stdout *os.File, env string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), ended: make(chan struct{})}
	p.Env = append(os.Environ(), "TEST_FOLLOW=1", env)
	p.Stdout, p.Stderr = &p.out, &p.err
	if stdout != nil {
		p.Stdout = stdout
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.ended
	})
	return p
}

// piped is start with a pipe that the test reads.
func piped(t *testing.T, args ...string) (*process, *os.File, *bufio.Reader) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	p := start(t, write, "", args...)
	write.Close()
	return p, read, bufio.NewReader(read)
}

func (p *process) interrupt(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// wantExit waits for the end.
func (p *process) wantExit(t *testing.T, code int, says ...string) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		t.Fatalf("it goes on:\n%s", p.err.String())
	}
	stderr := p.err.String()
	if got := p.ProcessState.ExitCode(); got != code {
		t.Fatalf("exit code %d, want %d:\n%s", got, code, stderr)
	}
	for _, text := range says {
		if !strings.Contains(stderr, text) {
			t.Fatalf("it does not say %q:\n%s", text, stderr)
		}
	}
}

func (p *process) eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s\n%s%s", what, p.out.String(), p.err.String())
		}
	}
}

func (p *process) says(t *testing.T, text string) {
	t.Helper()
	p.eventually(t, text, func() bool { return strings.Contains(p.err.String(), text) })
}

func (p *process) printed(t *testing.T, lines int) {
	t.Helper()
	p.eventually(t, fmt.Sprint(lines, " lines"), func() bool { return strings.Count(p.out.String(), "\n") >= lines })
}
