package cache

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/dev/freeport"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const feedName = "orders" // which both configurations name

// each runs a test behind each kind of cache.
func each(t *testing.T, test func(t *testing.T, kind Kind)) {
	for _, kind := range []Kind{Nginx, Varnish} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

// A tier is a source with a cache in front of it.
type tier struct {
	url    string // of the cache
	pool   *pgxpool.Pool
	log    *publish.Log
	server *httptest.Server
	down   atomic.Bool // the source breaks every connection

	mu    sync.Mutex
	asked map[string]int // requests that have reached the source, by URL
}

// open starts a source of the feed with n entries, and the cache. Empty options mean an open feed of a source with
// FEED_MAX_AGE=1s.
func open(t *testing.T, kind Kind, n int, options feedhttp.Options, changes ...string) *tier {
	t.Helper()
	if kind.Find() == "" {
		t.Skipf("needs %s (Debian: apt-get install nginx varnish)", kind)
	}
	pool := pgtest.New(t, sql.Migrations("publish"))
	if _, err := pool.Exec(t.Context(), `select feed_create('`+feedName+`')`); err != nil {
		t.Fatal(err)
	}
	tr := &tier{pool: pool, asked: map[string]int{}}
	tr.log = tr.openLog(t)
	tr.append(t, n)
	options.Name, options.PublicURL, options.MaxAge = "Test", "http://localhost", time.Second
	options.Limits = web.Limits{Waiting: web.Bound{All: 5000, Client: 5000}}
	source := feedhttp.New(tr.log, options, feed.Description{Name: feedName})
	tr.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tr.down.Load() {
			panic(http.ErrAbortHandler)
		}
		tr.mu.Lock()
		tr.asked[r.URL.String()]++
		tr.mu.Unlock()
		source.ServeHTTP(w, r)
	}))
	t.Cleanup(tr.server.Close)
	tr.url = start(t, kind, tr.server.Listener.Addr().String(), changes...)
	return tr
}

// start starts a cache in front of the source. It ends with this process, however that ends.
func start(t *testing.T, kind Kind, source string, changes ...string) (url string) {
	t.Helper()
	dir := pgtest.Dir(t)
	addr, err := freeport.Addr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	command, err := kind.Command(dir, addr, source)
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) > 0 {
		if _, err := write(dir+"/nginx.conf", string(read(t, dir+"/nginx.conf")), changes...); err != nil {
			t.Fatal(err)
		}
	}
	// The shell's input ends with this process, and the cache with the shell.
	cmd := exec.Command("sh", append([]string{"-c", `"$@" & read -r _; kill $! && wait $!`, "sh"}, command...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
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
			t.Errorf("%s: %v\n%s", kind, err, said.String())
		}
	})
	waitFor(t, string(kind)+" listens", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "http://" + addr
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: ", what)
		}
	}
}

func (tr *tier) openLog(t *testing.T) *publish.Log {
	t.Helper()
	l, err := publish.Open(t.Context(), tr.pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func (tr *tier) append(t *testing.T, n int) {
	t.Helper()
	if err := tr.log.InTx(t.Context(), func(tx *publish.Tx) error {
		for range n {
			tx.Append(feedName, publish.Entry{ID: uuid.New(), Payload: []byte(`{"name":"thing"}`)})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// head returns the end of the feed.
func (tr *tier) head(t *testing.T) feed.Cursor {
	t.Helper()
	s, err := tr.log.Snapshot(t.Context(), feedName)
	if err != nil {
		t.Fatal(err)
	}
	return s.Cursor()
}

// take returns what the source was asked since the last call: how often in all, and by URL.
func (tr *tier) take() (all int, asked map[string]int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	asked, tr.asked = tr.asked, map[string]int{}
	for _, n := range asked {
		all += n
	}
	return all, asked
}

// get returns the answer of the cache to a request with header fields given as name, value, name, value ...
func (tr *tier) get(t *testing.T, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tr.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp, body.String()
}

func feedPath(after feed.Cursor) string {
	return fmt.Sprintf("/feeds/%s?after=%s&limit=100", feedName, after)
}

// restored lets the source lose the last n entries, and have another one instead.
func (tr *tier) restored(t *testing.T, n int64) {
	t.Helper()
	if _, err := tr.pool.Exec(context.Background(), `
		with gone as (delete from feed_entry where position > $1)
		update feed set marked_position = 0`, tr.head(t).Position-n); err != nil {
		t.Fatal(err)
	}
	other := tr.openLog(t)
	change := publish.NewChange()
	change.Append(feedName, publish.Entry{ID: uuid.New(), Payload: []byte(`{"name":"other"}`)})
	if err := other.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}
