package feedhttp

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"net"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/sql"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { pgtest.Main(m) }

const feedName = "things"

// database returns an own database with one empty feed.
func database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.New(t, sql.Migrations("publish"))
	exec(t, pool, `select feed_create('`+feedName+`')`)
	exec(t, pool, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
	return pool
}

// sourceOf returns a source of a feed that calls d.Show for what it serves. What it asks Show when it is made,
// description answers.
func sourceOf(l *publish.Log, options Options, d feed.Description) *Source {
	show, made := d.Show, false
	d.Show = func(e feed.Entry) (feed.Shown, error) {
		if !made {
			return description.Show(e)
		}
		return show(e)
	}
	s := New(l, options, d)
	made = true
	return s
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func openLog(t testing.TB, pool *pgxpool.Pool) *publish.Log {
	t.Helper()
	l, err := publish.Open(t.Context(), pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

var description = feed.Description{
	Name: feedName, Title: "Things", Text: "Everything that is a thing.", ID: "tag:edison-cars.example,2026:things",
	Show: func(e feed.Entry) (feed.Shown, error) {
		v := struct {
			XMLName xml.Name `json:"-"`
			Name    string   `xml:"name" json:"name"`
		}{XMLName: xml.Name{Space: "https://edison-cars.example/ns/thing", Local: "thing"}}
		err := json.Unmarshal(e.Entity, &v)
		return feed.Shown{
			Title: "Thing " + v.Name, HTML: fmt.Sprintf("<p>A thing, version %d</p>", e.Version),
			URL: publicURL + "/things/" + e.ID.String(), XML: v,
		}, err
	},
}

const publicURL = "http://source.example"

// serve returns a server of the feeds of a log.
func serve(t testing.TB, l *publish.Log) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(New(l, Options{Name: "Test", PublicURL: publicURL}, description))
	t.Cleanup(server.Close)
	return server
}

var start = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

func thing(id uuid.UUID, version int64) publish.Entry {
	return publish.Entry{ID: id, Version: version, Updated: start.Add(time.Duration(version) * time.Second), Payload: fmt.Appendf(nil, `{"name":"%s <&> %d"}`, id.String()[:4], version)}
}

// put is a change that appends the entry and writes a row beside it.
func put(e publish.Entry) *publish.Change {
	c := publish.NewChange()
	c.Exec(`insert into thing (id, version) values ($1, $2) on conflict (id) do update set version = excluded.version`, e.ID, e.Version)
	c.Append(feedName, e)
	return c
}

// fill appends n entries of n entities, the ids being the same in every run.
func fill(t testing.TB, l *publish.Log, n int) {
	t.Helper()
	err := l.InTx(t.Context(), func(tx *publish.Tx) error {
		for i := range n {
			tx.Append(feedName, thing(numbered(i+1), 1))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func numbered(n int) (id uuid.UUID) {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "thing %d", n))
}

// A row is an entry of the log, as the database has it.
type row struct {
	position int64
	id       uuid.UUID
	version  int64
}

// logged reads the log.
func logged(t testing.TB, pool *pgxpool.Pool) (log []row) {
	t.Helper()
	rows, err := pool.Query(context.Background(), `select position, entity_id, version from feed_entry where feed = $1 order by position`, feedName)
	if err != nil {
		t.Fatal(err)
	}
	var r row
	if _, err := pgx.ForEachRow(rows, []any{&r.position, &r.id, &r.version}, func() error {
		log = append(log, r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return log
}

// sliceOf lets a bytea be scanned into a digest.
func sliceOf(d *feed.Digest) interface{ ScanBytes([]byte) error } { return (*digestScanner)(d) }

type digestScanner feed.Digest

func (d *digestScanner) ScanBytes(b []byte) error {
	*d = digestScanner(b)
	return nil
}

// A poller reads a feed as every subscriber does.
type poller struct {
	url    string
	limit  int
	cursor feed.Cursor
	seen   []row
}

func (p *poller) poll(t interface{ Fatal(...any) }) {
	client := feedclient.New("")
	for {
		answer, err := client.Get(context.Background(), feedclient.Request{URL: p.url, After: p.cursor, Limit: p.limit})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range answer.Page.Entries {
			p.seen = append(p.seen, row{e.Position, e.ID, e.Version})
		}
		p.cursor = answer.Page.Cursor
		if answer.Page.UpToDate {
			return
		}
	}
}

// fragile returns a log whose database can be taken away: no new connection is made while the switch is on.
func fragile(t *testing.T, pool *pgxpool.Pool) (*publish.Log, *atomic.Bool) {
	t.Helper()
	config, away := pool.Config(), new(atomic.Bool)
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if away.Load() { // a port that nobody listens on
			return (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:1")
		}
		conn, err := dial(ctx, network, addr)
		return fragileConn{conn, away}, err
	}
	breakable, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(breakable.Close)
	return openLog(t, breakable), away
}

// A fragileConn sends nothing while its database is down, also if it was opened before.
type fragileConn struct {
	net.Conn
	away *atomic.Bool
}

func (c fragileConn) Write(b []byte) (int, error) {
	if c.away.Load() {
		c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func waitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatal("waited in vain for ", what)
		case <-tick.C:
		}
	}
}

// restore takes the feed back to a position, and sells on.
func restore(t testing.TB, pool *pgxpool.Pool, position, more int) {
	t.Helper()
	exec(t, pool, `
		with gone as (delete from feed_entry where position > $1)
		update feed set marked_position = 0`, position)
	l := openLog(t, pool)
	for range more {
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
			t.Fatal(err)
		}
	}
}

// head returns the end of the feed as the log remembers it.
func head(t testing.TB, l *publish.Log) *publish.Snapshot {
	t.Helper()
	at := l.Remembered(feedName)
	if at == nil {
		t.Fatal("the feed is not known")
	}
	return at
}

// awaitStale returns when the log, whose database is down, answers no longer from what it remembers.
func awaitStale(t testing.TB, l *publish.Log) {
	t.Helper()
	waitFor(t, "the heads to be too old", func() bool {
		_, err := l.Snapshot(t.Context(), feedName)
		return err != nil
	})
}
