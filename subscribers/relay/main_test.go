package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

const processEnv = "RELAY_TEST_PROCESS" // the environment of a relay, in a process of its own

// shared is the broker of all tests that do it no harm: each has a feed, and so an exchange, of its own.
var shared struct {
	sync.Once
	*rabbitmq.Server
	err error
}

func TestMain(m *testing.M) {
	time.Local = time.FixedZone("elsewhere", 5*3600+1800) // so that a forgotten UTC shows
	if env := os.Getenv(processEnv); env != "" {
		daemon.Main(func(ctx context.Context, _ []string, _ map[string]string, stdout io.Writer) error {
			set := map[string]string{}
			if err := json.Unmarshal([]byte(env), &set); err != nil {
				return err
			}
			return Service().Run(ctx, set, stdout)
		})
	}
	dir, err := os.MkdirTemp("", "edison-relay-")
	if err != nil {
		panic(err)
	}
	sharedDir = dir
	code := run(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

var sharedDir string

// run ends the broker before pgtest.Main ends the process.
func run(m *testing.M) int {
	defer func() {
		if shared.Server != nil {
			shared.Kill()
		}
	}()
	return pgtest.Run(m)
}

func sharedBroker(t *testing.T) *rabbitmq.Server {
	t.Helper()
	if _, err := rabbitmq.Find(); err != nil {
		t.Skip(err)
	}
	shared.Do(func() {
		shared.Server, shared.err = rabbitmq.Start(context.Background(), rabbitmq.Config{Dir: sharedDir})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.Server
}

func numbered(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)) }

// A source publishes one feed. It knows what it published.
type source struct {
	name, url string
	history   []publish.Entry
	versions  map[int]int64
	log       *publish.Log

	mu     sync.Mutex
	engine http.Handler
}

func newSource(t *testing.T, name string) *source {
	t.Helper()
	s := &source{name: name}
	s.renew(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		engine := s.engine
		s.mu.Unlock()
		engine.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL + "/feeds/" + name
	return s
}

// renew makes it begin another history.
func (s *source) renew(t *testing.T) {
	t.Helper()
	logger, pool := slog.New(slog.DiscardHandler), pgtest.New(t, sql.Migrations("publish"))
	exec1(t, pool, `select feed_create($1)`, s.name)
	log, err := publish.Open(t.Context(), pool, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	engine := web.New(logger)
	publish.NewSource(log, publish.Config{Name: "Test", PublicURL: "http://source.example"}, feed.Description{
		Name: s.name, Title: "Things", ID: "tag:edison-cars.example,2026:things",
		Show: func(feed.Entry) (feed.Shown, error) { return feed.Shown{Title: "A thing"}, nil },
	}).Route(engine)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.engine, s.history, s.versions = log, engine, nil, map[int]int64{}
}

// put publishes a new version of each of the things from and to; size is of its text.
func (s *source) put(t testing.TB, from, to, size int) {
	t.Helper()
	var entries []publish.Entry
	for n := from; n <= to; n++ {
		e := s.version(n)
		e.Payload = fmt.Appendf(nil, `{"id":"%s","version":%d,"name":"thing %d, %d","text":"%s"}`, e.ID, e.Version, n, len(s.history), strings.Repeat("x", size))
		entries = append(entries, e)
	}
	s.publish(t, entries...)
}

func (s *source) remove(t testing.TB, n int) {
	t.Helper()
	s.publish(t, s.version(n))
}

func (s *source) version(n int) publish.Entry {
	s.versions[n]++
	return publish.Entry{ID: numbered(n), Version: s.versions[n], Updated: time.Date(2026, 1, 1, 0, 0, int(s.versions[n]), 0, time.UTC)}
}

func (s *source) publish(t testing.TB, entries ...publish.Entry) {
	t.Helper()
	err := s.log.InTx(context.Background(), func(tx *publish.Tx) error {
		publish.Append(tx, s.name, entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.history = append(s.history, entries...)
}

func exec1(t testing.TB, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func newDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("relay"))
}

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

// A queue is one bound to a feed's exchange. It is drained into heard.
type queue struct {
	name  string
	mu    sync.Mutex
	heard []amqp.Delivery
}

// listen binds a durable queue to the exchange, which it makes if it comes first, and drains it, over connections lost.
func listen(t *testing.T, url func() string, exchange string) *queue {
	t.Helper()
	q := &queue{name: exchange + "-listener"}
	ctx, cancel := context.WithCancel(context.Background())
	bound := make(chan struct{})
	var once sync.Once
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			q.drain(ctx, url(), exchange, func() { once.Do(func() { close(bound) }) })
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	select {
	case <-bound:
	case <-time.After(time.Minute):
		t.Fatal("no queue within a minute")
	}
	return q
}

func (q *queue) drain(ctx context.Context, url, exchange string, bound func()) {
	conn, err := amqp.DialConfig(url, amqp.Config{Heartbeat: 2 * time.Second, Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return
	}
	defer conn.CloseDeadline(time.Now().Add(time.Second))
	ch, err := conn.Channel()
	if err == nil {
		err = ch.ExchangeDeclare(exchange, "fanout", true, false, false, false, nil)
	}
	if err == nil {
		_, err = ch.QueueDeclare(q.name, true, false, false, false, nil)
	}
	if err == nil {
		err = ch.QueueBind(q.name, "", exchange, false, nil)
	}
	if err != nil {
		return
	}
	messages, err := ch.Consume(q.name, "", false, false, false, false, nil)
	if err != nil {
		return
	}
	bound()
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-messages:
			if !ok {
				return
			}
			q.mu.Lock()
			q.heard = append(q.heard, m)
			q.mu.Unlock()
			if m.Ack(false) != nil {
				return
			}
		}
	}
}

// all gives what was heard of a generation.
func (q *queue) all(generation int64) (found []amqp.Delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.heard {
		if m.Headers["generation"] == generation {
			found = append(found, m)
		}
	}
	return found
}

// firsts are the positions as they were heard of first, and times how often all were.
func (q *queue) firsts(generation int64) (firsts []int64, times int) {
	seen := map[int64]bool{}
	for _, m := range q.all(generation) {
		position, _ := m.Headers["position"].(int64)
		if times++; !seen[position] {
			seen[position] = true
			firsts = append(firsts, position)
		}
	}
	return firsts, times
}

// wantAll waits until every entry was heard of, and fails the test unless that was in order, and each message says what its entry does.
func (q *queue) wantAll(t *testing.T, s *source, generation int64) (messages int) {
	t.Helper()
	var firsts []int64
	eventually(t, fmt.Sprintf("%d entries are heard of", len(s.history)), func() bool {
		firsts, messages = q.firsts(generation)
		return len(firsts) >= len(s.history)
	})
	want := make([]int64, len(s.history))
	for i := range want {
		want[i] = int64(i + 1)
	}
	if !slices.Equal(firsts, want) {
		t.Fatalf("first heard of in the order %v", firsts)
	}
	ids := map[string]int64{}
	for _, m := range q.all(generation) {
		position := m.Headers["position"].(int64)
		if other, seen := ids[m.MessageId]; seen && other != position {
			t.Fatalf("positions %d and %d have the same message id", position, other)
		}
		ids[m.MessageId] = position
		s.wantSame(t, m)
	}
	if len(ids) != len(s.history) {
		t.Fatalf("%d message ids of %d entries", len(ids), len(s.history))
	}
	return messages
}

// wantSame: the message says what its entry does.
func (s *source) wantSame(t *testing.T, m amqp.Delivery) {
	t.Helper()
	position := m.Headers["position"].(int64)
	e := s.history[position-1]
	var body struct {
		ExternalID uuid.UUID `json:"external_id"`
		ID         uuid.UUID `json:"id"`
		Version    int64     `json:"version"`
		Deleted    bool      `json:"deleted"`
	}
	if err := json.Unmarshal(m.Body, &body); err != nil {
		t.Fatalf("%v: %s", err, m.Body)
	}
	deleted := e.Payload == nil
	if body.ExternalID != e.ID || body.Version != e.Version || body.Deleted != deleted || !deleted && body.ID != e.ID {
		t.Errorf("entry %d, %+v, goes out as %s", position, e, m.Body)
	}
	cursor, err := feed.ParseCursor(m.Headers["cursor"].(string))
	if err != nil || cursor.Position > position {
		t.Errorf("the cursor of entry %d is %s, %v", position, cursor, err)
	}
	if m.Headers["feed"] != s.name || m.Headers["version"] != e.Version || m.Headers["deleted"] != deleted || m.Exchange != s.name ||
		m.DeliveryMode != amqp.Persistent || m.ContentType != "application/json" {
		t.Errorf("entry %d goes out as %+v", position, m)
	}
}

// eventually waits up to two minutes for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// A proxy stands between a relay and the broker.
type proxy struct {
	url string
	mu  sync.Mutex
	cut int // after so many bytes from the relay its connection is cut, once; 0: it is not
	was bool
}

func newProxy(t *testing.T, to string, cut int) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{url: "amqp://guest:guest@" + ln.Addr().String() + "/", cut: cut}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			all.Go(func() { _, _ = io.Copy(client, server); client.Close() })
			all.Go(func() { p.pass(client, server) })
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return p
}

func (p *proxy) pass(client, server net.Conn) {
	defer server.Close()
	defer client.Close()
	p.mu.Lock()
	cut := p.cut
	p.cut = 0
	p.mu.Unlock()
	if cut == 0 {
		_, _ = io.Copy(server, client)
		return
	}
	_, _ = io.CopyN(server, client, int64(cut))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.was = true
}

func (p *proxy) hasCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.was
}
